//! The frames of a body on their way to a client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::answer::Body;
use super::upstream::BodyError;

/// A body without empty frames. Each would go out as a DATA frame that does not end the stream, and HTTP/2 clients end
/// a connection that has seen more than a few: h2 after a hundred in its whole life, which a gateway counts in weeks.
pub struct Solid(pub Body);

impl HttpBody for Solid {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let next = ready!(Pin::new(&mut self.0).poll_frame(cx));
            match &next {
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                _ => return Poll::Ready(next),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn only_frames_with_something_in_them_pass() {
        let frames = ["", "a", "", "", "b", ""].map(|text| Ok(Frame::data(Bytes::from(text))));
        let body: Body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut solid = Solid(body);
        let mut seen = Vec::new();
        while let Some(frame) = solid.frame().await {
            seen.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(seen, ["a", "b"]);
    }
}
