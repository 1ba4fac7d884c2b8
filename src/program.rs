//! This program's own file: where it lies, and keeping it out of a container's reach.
