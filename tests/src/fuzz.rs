//! A bounded run of a fuzzing target on stable Rust: the kept corpus as it is, and then mutations of it,
//! the same ones each time. cargo-fuzz looks further (see `fuzz/README.md`); this sees to it that what
//! it found once stays found, wherever the tests run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::tools::knob;

/// Mutated inputs of each target where `TNV_FUZZ_RUNS` does not tell: less than a second.
const RUNS: u64 = 50_000;

/// Longest mutated input: a few times what any of the parsers takes before it refuses by length.
const INPUT_BYTES_MAX: usize = 4096;

/// Values at the edges of what lengths, offsets and counts may be.
const NUMBERS: [i64; 14] = [
    0,
    1,
    -1,
    i8::MAX as i64,
    u8::MAX as i64,
    i16::MAX as i64,
    u16::MAX as i64,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1_000_000_000_000_000,
    i64::MAX - 408,
    i64::MAX,
    i64::MIN,
];

/// Pieces that mean something to one parser or another.
const PIECES: [&[u8]; 32] = [
    b"\0",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"-",
    b"=",
    b"\"",
    b"W/\"",
    b"*",
    b"%00",
    b"%2F",
    b"%2e%2e",
    b"../",
    b"/files/",
    b"?download",
    b"bytes=",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b" HTTP/1.1\r\n",
    b"http://",
    b"service x {",
    b"}",
    b"99999999999999999999",
    b"\xFF\xFE",
    b"\x1B[2J",
    "\u{2028}\u{202E}\u{85}ü".as_bytes(),
];

/// Runs a target on its corpus and on `TNV_FUZZ_RUNS` mutations of it, which `TNV_SEED` decides. An
/// input at which it panics is printed, and the panic goes on.
pub fn bounded(target: &str, run: fn(&[u8])) {
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "the target {target} has no corpus");
    let mut slowest = Duration::ZERO;
    let mut try_one = |input: &[u8]| {
        let start = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
            println!("{target} panicked at this input: {}", input.escape_ascii());
            resume_unwind(panic);
        }
        slowest = slowest.max(start.elapsed());
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let runs = knob("TNV_FUZZ_RUNS", RUNS);
    let mut mutator = Mutator { random: Random::new(knob("TNV_SEED", 1)), seeds: &seeds };
    for _ in 0..runs {
        try_one(&mutator.input());
    }
    println!("{target}: {} inputs of the corpus, {runs} mutated ones, slowest {slowest:?}", seeds.len());
}

/// The inputs that are kept for a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("read an input")).collect()
}

/// A small generator of random numbers (xorshift), the same from each seed.
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below a bound; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() >> 16) as usize % bound.max(1)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

struct Mutator<'a> {
    random: Random,
    seeds: &'a [Vec<u8>],
}

impl Mutator<'_> {
    /// A seed after one to eight changes.
    fn input(&mut self) -> Vec<u8> {
        let mut input = self.random.pick(self.seeds).clone();
        for _ in 0..=self.random.below(8) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again.repeat(1 + random.below(8)));
            }
            4 => drop(input.splice(at..end, random.pick(&PIECES).iter().copied())),
            5 => drop(input.splice(at..at, random.pick(&PIECES).iter().copied())),
            6 => {
                let number = random.pick(&NUMBERS).wrapping_add(random.below(3) as i64 - 1).to_be_bytes();
                let width = *random.pick(&[1, 2, 4, 8]);
                let end = (at + width).min(input.len());
                input.splice(at..end, number[8 - width..].iter().copied());
            }
            _ => {
                let other = random.pick(self.seeds);
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}
