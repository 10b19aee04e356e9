//! The registry as a process of its own, for `scripts/bench.d/registry`.

use std::io::{Read, Write};

use crate::registry::{serve, writable};

/// Serves what lies below `EDGE_BENCH_FOLDER`, prints `port N`, and ends with its standard input.
#[test]
#[ignore = "run by scripts/bench.d/registry"]
fn until_standard_input_ends() {
    let Some(folder) = std::env::var_os("EDGE_BENCH_FOLDER") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let begun = std::time::Instant::now();
        let edge = serve(std::path::Path::new(&folder), writable()).await;
        println!("\nstarted-us {}\nport {}", begun.elapsed().as_micros(), edge.port);
        std::io::stdout().flush().unwrap();
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        ended.await.unwrap().unwrap();
        edge.stop().await;
    });
}
