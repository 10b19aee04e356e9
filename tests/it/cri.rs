//! The runtime's socket missing, closed, forbidden, silent or not a runtime: each has its own words.
use std::path::Path;
use std::time::Duration;

use edge::cri::{Error, Runtime, Settings};
use tokio::net::UnixListener;

fn runtime_at(socket: &Path) -> Runtime {
    let endpoint = format!("unix://{}", socket.display());
    Runtime::new(&Settings { endpoint, deadline: Duration::from_millis(300), ..Settings::default() }).unwrap()
}

#[tokio::test]
async fn a_missing_socket_says_to_start_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let error = runtime_at(&folder.path().join("c.sock")).state().await.unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
    assert!(error.is_down());
    assert!(error.to_string().contains("hint: start it"), "{error}");
}

#[tokio::test]
async fn a_socket_nobody_listens_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = runtime_at(&socket).version().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_silent_runtime_is_hung_after_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = runtime_at(&socket).version().await.unwrap_err();
    assert!(matches!(error, Error::Hung { call: "Version", .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_a_runtime_is_unreachable_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = runtime_at(&socket).version().await.unwrap_err();
    assert!(error.is_down(), "{error:?}");
    server.abort();
}
