//! Authentication: whether somebody is who they say they are. It must never know where users are stored, nor what a
//! session does with an answer.

mod guard;
mod hash;
mod jwt;
mod pool;

pub use guard::{Guard, Refusal};
pub use hash::{Algorithm, HashError, Hashed, MacFunction, SALT_BYTES, SaltPosition};
pub use jwt::{Claims, Invalid, JwtAlgorithm, JwtKey, Token};
pub use pool::{Busy, HashPool};
