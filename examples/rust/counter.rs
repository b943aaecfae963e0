//! A counter in Rust: `cargo run --example counter [127.0.0.1:11000 ...]`
//!
//! Several tasks count one slot of a running diskstore up by compare-and-set, over one connection, so that
//! no step is lost. It shows what each failure means, and what may be done then.
#![allow(clippy::print_stdout, reason = "it says how far it has counted")]

use anyhow::{Context, Result, bail, ensure};
use diskstore::client::{Client, Dialling};

const SLOT: &str = "70";
const TASKS: usize = 4;
const STEPS_EACH: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut nodes: Vec<String> = std::env::args().skip(1).collect();
    if nodes.is_empty() {
        nodes.push("127.0.0.1:11000".to_owned());
    }
    println!("{}", count(&nodes).await?);
    Ok(())
}

/// Counts, and says how far.
///
/// # Errors
/// No node answers, or a step may have been lost.
pub(crate) async fn count(nodes: &[String]) -> Result<String> {
    // A token is taken from DISKSTORE_TOKEN, if it is set.
    let client = Client::connect(nodes, Dialling::read(None, None)?).await?;
    client.delete(SLOT).await?;
    let tasks = (0..TASKS).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for step in 0..STEPS_EACH {
                add_one(&client, &format!("task {task} step {step}")).await?;
            }
            anyhow::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let value = client.get(SLOT).await?.context("the slot holds a value")?;
    let counted: usize = String::from_utf8(value)?.split(' ').next().unwrap_or("0").parse()?;
    ensure!(counted == TASKS * STEPS_EACH, "counted to {counted}");
    client.delete(SLOT).await?;
    Ok(format!("counted to {counted} - ok"))
}

/// Adds one. The mark tells this step from those of others.
async fn add_one(client: &Client, mark: &str) -> Result<()> {
    loop {
        let found = client.get_versioned(SLOT).await?;
        let value = String::from_utf8(found.value.unwrap_or_default())?;
        let count: usize = value.split(' ').next().unwrap_or("0").parse().unwrap_or(0);
        let next = format!("{} {mark}", count + 1);
        match client.set_if_version(SLOT, &next, found.version).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {} // another task was faster: with what is there now
            Err(error) if error.is_not_applied() => {
                // It was tried for as long as the client's patience lasts.
                return Err(error).context("nothing has happened");
            }
            Err(error) => {
                // It was applied once or not at all, and is never sent again by itself.
                let now = client.get_versioned(SLOT).await?;
                if now.value.as_deref() == Some(next.as_bytes()) {
                    return Ok(());
                }
                if now.version != found.version {
                    bail!("others have written since; nobody knows whether {mark} counts: {error}");
                }
            }
        }
    }
}
