//! The `chatroom` program. Thin: reads what was typed and runs it.
//!
//! Exit codes: 0 done, 1 no node, or a line that was not sent, 2 wrong usage.

use std::io;
use std::process::ExitCode;

use diskstore::client::{self, ChatFlags};
use diskstore::program;

fn main() -> ExitCode {
    let flags: ChatFlags = match diskstore_flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(refusal) => return refusal.tell(),
    };
    let chatted = client::run_chatroom(&flags, &mut io::stdout().lock());
    let outcome = chatted.map(|()| ExitCode::SUCCESS);
    program::exit("chatroom", outcome.map_err(|error| (error.exit_code(), error.into())))
}
