//! What only SQLite does; the contract suite tests what every sink must do.
