//! What goes into a statement and what comes out of one, the same for both databases.

use crate::error::Result;
use crate::fail;

/// No answer has more rows than this: the largest are for one user's, one file's, or all groups.
pub const ROWS_MAX: usize = 100_000;

/// One parameter or one column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// Any integer that fits; numbers over `i64::MAX` are refused, not wrapped.
    Int(i64),
    /// Text. A text column takes this and not `Bytes`: in SQLite a text never equals a blob.
    Text(String),
    /// Bytes, for `varbinary` and `BLOB` columns.
    Bytes(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::Int(value.into())
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::Int(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Value {
        Value::Text(value.clone())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Value {
        Value::Bytes(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Value {
        Value::Bytes(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// A row of an answer. Columns are read by position and type; a column of another type is an error, since
/// other programs may write anything into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Value>);

impl Row {
    /// Columns in the order of the statement.
    pub fn new(values: Vec<Value>) -> Row {
        Row(values)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The column as it came.
    pub fn value(&self, column: usize) -> Result<&Value> {
        match self.0.get(column) {
            Some(value) => Ok(value),
            None => {
                let columns = self.0.len();
                fail!(Internal, "there is no column {column} in a row of {columns} columns")
            }
        }
    }

    /// An integer.
    pub fn int(&self, column: usize) -> Result<i64> {
        match self.opt_int(column)? {
            Some(value) => Ok(value),
            None => fail!(Internal, "column {column} is NULL, want an integer"),
        }
    }

    /// An integer or NULL.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Int(value) => Ok(Some(*value)),
            other => fail!(Internal, "column {column} is {}, want an integer", kind(other)),
        }
    }

    /// A text.
    pub fn text(&self, column: usize) -> Result<&str> {
        match self.opt_text(column)? {
            Some(value) => Ok(value),
            None => fail!(Internal, "column {column} is NULL, want a text"),
        }
    }

    /// A text or NULL.
    pub fn opt_text(&self, column: usize) -> Result<Option<&str>> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Text(value) => Ok(Some(value)),
            Value::Bytes(value) => match std::str::from_utf8(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => fail!(Internal, "column {column} is not UTF-8, want a text"),
            },
            other => fail!(Internal, "column {column} is {}, want a text", kind(other)),
        }
    }

    /// Bytes, of a text too.
    pub fn bytes(&self, column: usize) -> Result<&[u8]> {
        match self.opt_bytes(column)? {
            Some(value) => Ok(value),
            None => fail!(Internal, "column {column} is NULL, want bytes"),
        }
    }

    /// Bytes, of a text too, or NULL.
    pub fn opt_bytes(&self, column: usize) -> Result<Option<&[u8]>> {
        match self.value(column)? {
            Value::Null => Ok(None),
            Value::Text(value) => Ok(Some(value.as_bytes())),
            Value::Bytes(value) => Ok(Some(value)),
            other => fail!(Internal, "column {column} is {}, want bytes", kind(other)),
        }
    }
}

/// What a statement that was committed did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows inserted, changed or deleted. MySQL does not count a row that an UPDATE leaves as it
    /// was (and counts 2 for an ON DUPLICATE KEY UPDATE that changes one); SQLite counts it.
    pub affected: u64,
    /// What the statement gave LAST_INSERT_ID in MySQL; in SQLite the first column of what it is
    /// RETURNING; or 0. The value of an AUTO_INCREMENT column is not among them.
    pub last_id: u64,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Int(_) => "an integer",
        Value::Text(_) => "a text",
        Value::Bytes(_) => "bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_another_type_is_an_error_and_not_a_guess() {
        let row = Row::new(vec![Value::Int(7), Value::from("a"), Value::Null, Value::Bytes(vec![0xFF])]);
        assert_eq!(row.int(0), Ok(7));
        assert_eq!(row.text(1), Ok("a"));
        assert_eq!(row.bytes(1), Ok(&b"a"[..]));
        assert_eq!(row.opt_text(2), Ok(None));
        assert!(row.text(0).is_err() && row.int(1).is_err() && row.int(2).is_err());
        assert!(row.text(3).is_err() && row.int(4).is_err());
    }
}
