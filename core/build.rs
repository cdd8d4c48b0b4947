//! Compiles the event schema with protox, so that no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../schemas/event.proto");
    let files = protox::compile(["event.proto"], ["../schemas"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
