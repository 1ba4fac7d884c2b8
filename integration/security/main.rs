//! Attacks on the runtime, each by the means that an attacker has.
//!
//! A module that is named after a CVE does what its exploit does, and says in its head what the hole was, what closes
//! it here, and what the test measures. [`canary`] is what lies outside of every container and must stay as it is.

mod cache;
mod canary;
mod cve_2016_9962;
mod cve_2019_5736;
mod cve_2022_29162;
mod cve_2024_21626;
mod cve_2024_45310;
mod cve_2025_31133;
mod cve_2025_52565;
mod cve_2025_52881;
mod guests;
mod swap;
mod swapped;
