//! Host functions offered to guests.
