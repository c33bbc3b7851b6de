//! Work that blocks, in a service that must go on answering.

/// Runs what blocks where it may. A panic in it goes on in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and begins nothing any more: whoever waits for it ends, too.
            Err(_) => std::future::pending().await,
        },
    }
}
