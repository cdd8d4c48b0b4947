//! Rule SQL: parser, plan, program, functions
