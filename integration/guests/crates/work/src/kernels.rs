//! Work for the processor alone.

use std::collections::HashMap;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::report;

/// Digests of a buffer that fits the cache.
pub fn sha256(mib: usize) {
    let buffer: Vec<u8> = (0..1 << 20).map(|position| position as u8).collect();
    let start = Instant::now();
    let mut sum = Sha256::new();
    for _ in 0..mib {
        sum.update(&buffer);
    }
    println!("{:x}", sum.finalize());
    report(start, mib as f64, "MiB");
}

/// The product of two square matrices.
pub fn matrix(size: usize) {
    let mut random = Random(1);
    let mut make = || -> Vec<f64> { (0..size * size).map(|_| (random.next() % 1000) as f64).collect() };
    let (left, right) = (make(), make());
    let start = Instant::now();
    let mut product = vec![0.0; size * size];
    for (row, out) in left.chunks(size).zip(product.chunks_mut(size)) {
        for (factor, others) in row.iter().zip(right.chunks(size)) {
            for (sum, other) in out.iter_mut().zip(others) {
                *sum += factor * other;
            }
        }
    }
    println!("{}", product.iter().sum::<f64>());
    report(start, 2.0 * (size as f64).powi(3) / 1e6, "MFlop");
}

/// Numbers sorted, and counted in a map.
pub fn sort(count: usize) {
    let mut random = Random(1);
    let numbers: Vec<u64> = (0..count).map(|_| random.next() % (count as u64 / 4)).collect();
    let start = Instant::now();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let mut counts = HashMap::new();
    for number in &numbers {
        *counts.entry(number).or_insert(0) += 1;
    }
    println!("{} {} {:?}", sorted[count / 2], counts.len(), counts.values().max());
    report(start, count as f64 / 1e3, "k");
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
