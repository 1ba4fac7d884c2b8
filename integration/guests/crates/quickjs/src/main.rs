//! The program is C, `main` too: see main.c.
#![no_main]
