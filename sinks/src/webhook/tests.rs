//! Bodies, ids, signatures, and what statuses mean.
