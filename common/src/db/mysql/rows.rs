//! Statements on a connection, and the conversion of values and rows.

use std::result::Result as StdResult;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::errors::Failure;
use crate::db::charset::Charset;
use crate::db::value::{ROWS_MAX, Row, Value, Written};

/// The character set of columns of bytes, as the server numbers it.
const BINARY: u16 = 63;

/// Runs a statement without parameters or rows.
pub fn command(conn: &mut Conn, sql: &str) -> StdResult<(), Failure> {
    Ok(conn.query_drop(sql)?)
}

/// Runs a statement that writes.
pub fn write(
    conn: &mut Conn,
    charset: Charset,
    sql: &'static str,
    params: &[Value],
) -> StdResult<Written, Failure> {
    conn.exec_drop(sql, parameters(charset, params))?;
    Ok(Written { affected: conn.affected_rows(), last_id: conn.last_insert_id() })
}

/// The rows of a query.
pub fn query(
    conn: &mut Conn,
    charset: Charset,
    sql: &'static str,
    params: &[Value],
) -> StdResult<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for row in conn.exec_iter(sql, parameters(charset, params))? {
        if rows.len() == ROWS_MAX {
            return Err(Failure::permanent(format!("more than {ROWS_MAX} rows")));
        }
        rows.push(row_of(row?, charset)?);
    }
    Ok(rows)
}

fn parameters(charset: Charset, params: &[Value]) -> mysql::Params {
    if params.is_empty() {
        return mysql::Params::Empty;
    }
    mysql::Params::Positional(params.iter().map(|value| parameter(charset, value)).collect())
}

/// A value as MySQL takes it.
pub fn parameter(charset: Charset, value: &Value) -> mysql::Value {
    match value {
        Value::Null => mysql::Value::NULL,
        Value::Int(value) => mysql::Value::Int(*value),
        Value::Text(value) => mysql::Value::Bytes(charset.encode(value).into_owned().into_bytes()),
        Value::Bytes(value) => mysql::Value::Bytes(value.clone()),
    }
}

/// A row as MySQL gives it.
pub fn row_of(row: mysql::Row, charset: Charset) -> StdResult<Row, Failure> {
    let columns = row.columns();
    let values = row.unwrap().into_iter().zip(columns.iter()).map(|(value, column)| {
        let is_text = column.character_set() != BINARY;
        value_of(value, if is_text { charset } else { Charset::Utf8mb4 })
    });
    Ok(Row::new(values.collect::<StdResult<_, _>>()?))
}

/// Texts and bytes look alike: valid UTF-8 is taken for text, and [`Row`] gives either as the other.
fn value_of(value: mysql::Value, charset: Charset) -> StdResult<Value, Failure> {
    Ok(match value {
        mysql::Value::NULL => Value::Null,
        mysql::Value::Int(value) => Value::Int(value),
        mysql::Value::UInt(value) => match i64::try_from(value) {
            Ok(value) => Value::Int(value),
            Err(_) => return Err(Failure::permanent(format!("the number {value} is out of range"))),
        },
        mysql::Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Value::Text(charset.decode(text)),
            Err(error) => Value::Bytes(error.into_bytes()),
        },
        // Times are for people; no statement computes with them, or with fractions.
        other => Value::Text(other.as_sql(true).trim_matches('\'').to_owned()),
    })
}
