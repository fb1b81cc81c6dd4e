//! `bcdedit` for a Windows that has none (Wine): runs on a store in `bcd.json` beside the program, which is that of a fresh
//! Windows until it is changed, and adds each command line to `bcd.log`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::ExitCode;

use bcd_model::Bcd;

fn main() -> io::Result<ExitCode> {
    let here = std::env::current_exe()?;
    let (store, log) = (here.with_file_name("bcd.json"), here.with_file_name("bcd.log"));
    let mut bcd = match std::fs::read(&store) {
        Ok(content) => serde_json::from_slice(&content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Bcd::installed(),
        Err(error) => return Err(error),
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    writeln!(OpenOptions::new().create(true).append(true).open(log)?, "{}", arguments.join(" "))?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = bcd.bcdedit(&words);
    std::fs::write(store, serde_json::to_vec_pretty(&bcd)?)?;
    print!("{}", output.text);
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(1)))
}
