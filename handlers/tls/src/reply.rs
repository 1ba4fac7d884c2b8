//! Where an HTTP reply ends, while it comes in: RFC 9112, section 6.
//!
//! The bytes stay as they came; only their end is found. What cannot be understood ends when the peer closes, so a
//! peer that speaks another protocol is heard out as well.

use httparse::{EMPTY_HEADER, Response, Status, parse_chunk_size, parse_headers};

/// The most headers of a reply, and the most bytes of its head, of a chunk's first line and of its trailer.
const MAX_HEADERS: usize = 256;
const MAX_HEAD: usize = 256 * 1024;

/// A reply, and what comes next of it.
#[derive(Debug)]
pub struct Reply {
    bytes: Vec<u8>,
    next: Next,
    /// The request's method was HEAD: no body follows, whatever the reply says.
    bodyless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A head begins here; not the last one if it is interim.
    Head(usize),
    /// A chunk begins here.
    Chunk(usize),
    /// The trailer begins here.
    Trailer(usize),
    /// Nothing: the reply ends here, where the bytes may not have come to yet.
    End(usize),
    /// As much as the peer sends.
    Close,
}

impl Reply {
    /// A reply to this request, of which nothing has come yet.
    pub fn to(request: &[u8]) -> Self {
        Self { bytes: vec![], next: Next::Head(0), bodyless: request.starts_with(b"HEAD ") }
    }

    /// Adds what came. Says whether the reply is complete now.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        while let Some(next) = self.step()
            && next != self.next
        {
            self.next = next;
        }
        matches!(self.next, Next::End(end) if end <= self.bytes.len())
    }

    /// The reply, after the peer has closed if it was not complete before; none if it is not complete for all that.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        match self.next {
            Next::Close => Some(self.bytes),
            Next::End(end) if end <= self.bytes.len() => {
                self.bytes.truncate(end);
                Some(self.bytes)
            }
            _ => None,
        }
    }

    /// What follows upon what is next, if that is all there.
    fn step(&self) -> Option<Next> {
        let rest = |at| self.bytes.get(at..).filter(|it| !it.is_empty());
        match self.next {
            Next::Head(at) => {
                let bytes = rest(at)?;
                let mut headers = [EMPTY_HEADER; MAX_HEADERS];
                let mut head = Response::new(&mut headers);
                let parsed = head.parse(bytes);
                let len = complete(parsed, bytes)?;
                Some(len.map_or(Next::Close, |len| self.body(&head, at + len)))
            }
            Next::Chunk(at) => {
                let bytes = rest(at)?;
                Some(match complete(parse_chunk_size(bytes), bytes)? {
                    None => Next::Close,
                    Some((line, 0)) => Next::Trailer(at + line),
                    Some((line, size)) => {
                        let end = usize::try_from(size).ok().and_then(|it| (at + line + 2).checked_add(it));
                        end.map_or(Next::Close, Next::Chunk)
                    }
                })
            }
            Next::Trailer(at) => {
                let bytes = rest(at)?;
                let mut headers = [EMPTY_HEADER; MAX_HEADERS];
                let parsed = complete(parse_headers(bytes, &mut headers), bytes)?;
                Some(parsed.map_or(Next::Close, |(len, _)| Next::End(at + len)))
            }
            Next::End(_) | Next::Close => None,
        }
    }

    /// What follows upon a head that ends at `at`.
    fn body(&self, head: &Response<'_, '_>, at: usize) -> Next {
        let values = |name: &'static str| {
            let named = head.headers.iter().filter(move |it| it.name.eq_ignore_ascii_case(name));
            named.flat_map(|it| it.value.split(|&it| it == b',')).map(<[u8]>::trim_ascii)
        };
        match head.code {
            Some(101) => return Next::Close,
            Some(100..200) => return Next::Head(at),
            Some(204 | 304) => return Next::End(at),
            _ if self.bodyless => return Next::End(at),
            _ => {}
        }
        match values("transfer-encoding").next_back() {
            Some(last) if last.eq_ignore_ascii_case(b"chunked") => return Next::Chunk(at),
            Some(_) => return Next::Close,
            None => {}
        }
        let mut lengths = values("content-length").map(|it| str::from_utf8(it).ok()?.parse::<usize>().ok());
        match lengths.next() {
            Some(Some(len)) if lengths.all(|it| it == Some(len)) => {
                at.checked_add(len).map_or(Next::Close, Next::End)
            }
            _ => Next::Close,
        }
    }
}

/// What the parser made of `bytes`: nothing yet, or nothing that can be understood.
fn complete<T, E>(parsed: Result<Status<T>, E>, bytes: &[u8]) -> Option<Option<T>> {
    match parsed {
        Ok(Status::Complete(it)) => Some(Some(it)),
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => None,
        Ok(Status::Partial) | Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\n\r\n";

    /// Where the reply is complete without the peer's closing, fed byte by byte; `bytes` has more after it.
    fn end(request: &str, bytes: &str) -> Option<usize> {
        let mut reply = Reply::to(request.as_bytes());
        let end = bytes.bytes().position(|it| reply.push(&[it])).map(|it| it + 1);
        let mut whole = Reply::to(request.as_bytes());
        assert_eq!(whole.push(bytes.as_bytes()), end.is_some(), "in one piece: {bytes:?}");
        if let Some(end) = end {
            assert_eq!(whole.finish().as_deref(), Some(&bytes.as_bytes()[..end]));
        }
        end
    }

    #[test]
    fn a_length_counts_the_body() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(end(GET, &format!("{head}abcdef")), Some(head.len() + 3));
        assert_eq!(end(GET, &format!("{head}ab")), None);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nContent-Length: 0, 0\r\n\r\n";
        assert_eq!(end(GET, &format!("{head}x")), Some(head.len()));
    }

    #[test]
    fn chunks_end_with_the_trailer() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 1\r\n\r\n";
        let body = "3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nEtag: x\r\n\r\n";
        assert_eq!(end(GET, &format!("{head}{body}HTTP/1.1")), Some(head.len() + body.len()));
        assert_eq!(end(GET, &format!("{head}3\r\nabc\r\n0\r\n")), None);
        let body = "0\r\n\r\n";
        assert_eq!(end(GET, &format!("{head}{body}")), Some(head.len() + body.len()));
    }

    #[test]
    fn some_replies_have_no_body() {
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n";
        assert_eq!(end("HEAD / HTTP/1.1\r\n\r\n", &format!("{long}x")), Some(long.len()));
        for status in ["204 No Content", "304 Not Modified"] {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 30\r\n\r\n");
            assert_eq!(end(GET, &format!("{head}x")), Some(head.len()));
        }
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        assert_eq!(end(GET, interim), None);
        let last = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(end(GET, &format!("{interim}{last}")), Some(interim.len() + last.len()));
    }

    #[test]
    fn the_rest_ends_when_the_peer_closes() {
        for text in [
            "HTTP/1.0 200 OK\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffe\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
            "HTTP/1.1 101 Switching Protocols\r\n\r\nabc",
            "220 mail.example ESMTP\r\n",
        ] {
            let mut reply = Reply::to(GET.as_bytes());
            assert!(!reply.push(text.as_bytes()), "{text}");
            assert_eq!(reply.finish().as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn less_than_promised_is_no_reply() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let mut reply = Reply::to(GET.as_bytes());
            assert!(!reply.push(text.as_bytes()), "{text}");
            assert_eq!(reply.finish(), None, "{text}");
        }
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let mut reply = Reply::to(GET.as_bytes());
        reply.push(b"HTTP/1.1 200 OK\r\nX: ");
        reply.push(&vec![b'x'; MAX_HEAD]);
        assert_eq!(reply.next, Next::Close);
    }
}
