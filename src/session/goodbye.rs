//! The ends of both streams: the server's is said goodbye to and its close awaited; the client hears its last words.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::client::ClientStream;
use crate::{pg::encode, upstream::BoxedStream};

/// After Terminate the server closes by itself. Closing first would answer its TLS close with a reset, which is what
/// kills other tools' tunnels; one that takes longer than this is busy with something else.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long the last words may take to reach a client that does not read.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the server still hears.
pub(super) enum Goodbye {
    /// It has had the client's Terminate: its close is awaited.
    Terminated,
    /// It gets one from us.
    Terminate,
    /// Nothing: it is gone, or in the middle of a message.
    Closed,
}

pub(super) async fn goodbye(mut stream: BoxedStream, goodbye: Goodbye) {
    let farewell = async {
        if let Goodbye::Terminate = goodbye {
            let mut out = BytesMut::new();
            encode::terminate(&mut out);
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
        if !matches!(goodbye, Goodbye::Closed) {
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await? > 0 {}
        }
        io::Result::Ok(())
    };
    // However the server's close looks, the session is over.
    let _ = timeout(GOODBYE, farewell).await;
    let _ = timeout(LAST_WORDS, stream.shutdown()).await;
}

/// Says the last words to a client and closes.
pub(super) async fn last_words(client: &mut ClientStream, words: &[u8]) {
    // A client that does not read them, or is gone, ends all the same.
    let _ = timeout(LAST_WORDS, close_with(client, words)).await;
}

/// Says the last words and closes so that they arrive: a socket that is closed over unread bytes is reset, and the
/// reset overtakes what was written.
async fn close_with(client: &mut ClientStream, words: &[u8]) -> io::Result<()> {
    client.write_all(words).await?;
    client.shutdown().await?;
    let mut rest = [0; 4096];
    let mut budget = 256 * 1024;
    while budget > 0 {
        let read = client.read(&mut rest).await?;
        if read == 0 {
            break;
        }
        budget -= read.min(budget);
    }
    Ok(())
}
