//! Authentication: whether somebody is who they say they are. It must never know where users are stored, nor what a
//! session does with an answer.
