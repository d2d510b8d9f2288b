//! Requests and answers against hosts that are scripted byte by byte.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fetch::{CancelFlag, Client, Error, Limits, Place, Proxy, Request, Response};

/// Serves each of `answers` to one connection; what was asked on each.
fn host(answers: Vec<Vec<&'static [u8]>>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let mut asked = Vec::new();
        for connection in answers {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in connection {
                asked.push(request(&mut stream));
                stream.write_all(answer).unwrap();
            }
        }
        asked
    });
    (port, served)
}

fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn patient() -> Limits {
    Limits {
        dial: Duration::from_secs(30),
        idle: Duration::from_secs(30),
        slow: Duration::from_secs(30),
        slow_bytes: 0,
    }
}

fn place(port: u16) -> Place {
    Place {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        proxy: None,
    }
}

fn get(client: &Arc<Client>, port: u16, limits: Limits) -> Result<Response, Error> {
    let headers = [("Host".to_owned(), "h".to_owned())];
    let request = Request {
        method: "GET",
        target: "/x?y=1",
        headers: &headers,
        body: None,
    };
    client.send(&place(port), &request, limits, &CancelFlag::default())
}

fn body(response: &mut Response) -> (Vec<u8>, Result<(), Error>) {
    let mut buffer = vec![0; 100_000];
    let (n, outcome) = response.fill(&mut buffer);
    buffer.truncate(n);
    (buffer, outcome)
}

#[test]
fn an_answer_to_a_head_has_no_body_and_what_is_posted_comes_whole() {
    let (port, served) = host(vec![vec![
        b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok",
    ]]);
    let client = Arc::new(Client::default());
    let send = |method, sent: Option<&[u8]>| {
        let headers = [("Host".to_owned(), "h".to_owned())];
        let request = Request {
            method,
            target: "/",
            headers: &headers,
            body: sent,
        };
        client
            .send(&place(port), &request, patient(), &CancelFlag::default())
            .unwrap()
    };
    assert_eq!(body(&mut send("HEAD", None)).0, b"");
    // Its end is a request's end, which is where the scripted host stops to read.
    assert_eq!(body(&mut send("POST", Some(b"a=b\r\n\r\n"))).0, b"ok");
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("HEAD / HTTP/1.1\r\n"), "{}", asked[0]);
    let posted = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n";
    assert_eq!(asked[1], posted);
}

#[test]
fn bodies_of_all_kinds() {
    for answer in [
        &b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\nbody"[..],
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nbod\r\n1\r\ny\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.0 200 x\r\n\r\nbody",
    ] {
        let (port, served) = host(vec![vec![answer]]);
        let mut response = get(&Arc::default(), port, patient()).unwrap();
        let asked = served.join().unwrap();
        assert_eq!(response.status(), 200);
        let (data, outcome) = body(&mut response);
        outcome.unwrap();
        assert_eq!(data, b"body");
        assert_eq!(asked, ["GET /x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"]);
    }
}

#[test]
fn a_body_that_ends_too_early_keeps_what_came() {
    for answer in [
        &b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nbody"[..],
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nbody",
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    ] {
        let (port, served) = host(vec![vec![answer]]);
        let mut response = get(&Arc::default(), port, patient()).unwrap();
        served.join().unwrap();
        let (data, outcome) = body(&mut response);
        assert_eq!(data, b"body");
        assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
    }
}

#[test]
fn what_is_no_http_is_told() {
    for (answer, is_early) in [
        (&b"HTTP/1.1 200 x\r\nContent-Length: many\r\n\r\n"[..], true),
        (b"HTTP/1.1 200 x\r\nTransfer-Encoding: br\r\n\r\n", true),
        (b"\0\0\0\0", true),
        (
            b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            false,
        ),
        (
            b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            false,
        ),
    ] {
        let (port, served) = host(vec![vec![answer]]);
        let response = get(&Arc::default(), port, patient());
        served.join().unwrap();
        let error = match response {
            Ok(mut response) if !is_early => body(&mut response).1.unwrap_err(),
            response => response.unwrap_err(),
        };
        assert!(matches!(error, Error::Protocol(_)), "{error}");
    }
}

#[test]
fn a_connection_is_used_again_when_its_body_was_read() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\nbody";
    let client = Arc::default();
    // One connection for the first two; the third comes after a body that was left unread.
    let (port, served) = host(vec![vec![ANSWER, ANSWER], vec![ANSWER]]);
    body(&mut get(&client, port, patient()).unwrap()).1.unwrap();
    drop(get(&client, port, patient()).unwrap());
    body(&mut get(&client, port, patient()).unwrap()).1.unwrap();
    assert_eq!(served.join().unwrap().len(), 3);
}

#[test]
fn a_connection_that_the_host_ended_is_opened_anew() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\nbody";
    let client = Arc::default();
    let (port, served) = host(vec![vec![ANSWER], vec![ANSWER]]);
    for _ in 0..2 {
        body(&mut get(&client, port, patient()).unwrap()).1.unwrap();
    }
    assert_eq!(served.join().unwrap().len(), 2);
}

#[test]
fn a_host_that_says_nothing_or_too_little() {
    let (port, served) = host(vec![vec![b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nb"]]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let impatient = Limits {
        idle: Duration::from_millis(10),
        ..patient()
    };
    let error = get(&Arc::default(), silent, impatient).unwrap_err();
    assert!(matches!(error, Error::Idle), "{error}");
    let strict = Limits {
        slow: Duration::ZERO,
        slow_bytes: 1 << 20,
        ..patient()
    };
    let error = get(&Arc::default(), port, strict).unwrap_err();
    assert!(matches!(error, Error::Slow), "{error}");
    served.join().unwrap();
}

#[test]
fn a_flag_ends_what_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let cancel = Arc::new(AtomicBool::new(false));
    let error = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let request = Request {
                method: "GET",
                target: "/",
                headers: &[],
                body: None,
            };
            Arc::new(Client::default()).send(&place(port), &request, patient(), &cancel)
        });
        let _asked = listener.accept().unwrap();
        cancel.store(true, Ordering::Relaxed);
        asking.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, Error::Cancelled), "{error}");
}

#[test]
fn a_header_cannot_begin_another() {
    for (name, value) in [("A", "1\r\nB: 2"), ("A\n", "1"), ("A", "\0")] {
        let headers = [(name.to_owned(), value.to_owned())];
        let request = Request {
            method: "GET",
            target: "/",
            headers: &headers,
            body: None,
        };
        let client = Arc::new(Client::default());
        let error = client.send(&place(1), &request, patient(), &CancelFlag::default());
        assert!(matches!(error, Err(Error::Protocol(_))));
    }
}

#[test]
fn a_proxy_that_does_not_connect_is_told() {
    let (port, served) = host(vec![vec![b"HTTP/1.1 407 no\r\nContent-Length: 0\r\n\r\n"]]);
    let tls = fetch::Tls::new(&fetch::TlsFiles::default()).unwrap();
    let place = Place {
        host: "far.example".into(),
        port: 443,
        tls: Some(tls),
        proxy: Some(Proxy {
            host: "127.0.0.1".into(),
            port,
            authorization: "Basic x".into(),
        }),
    };
    let request = Request {
        method: "GET",
        target: "/",
        headers: &[],
        body: None,
    };
    let client = Arc::new(Client::default());
    let error = client
        .send(&place, &request, patient(), &CancelFlag::default())
        .unwrap_err();
    assert!(matches!(error, Error::Proxy(407)), "{error}");
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n"));
    assert!(asked[0].contains("Proxy-Authorization: Basic x\r\n"));
}

#[test]
fn files_that_are_no_certificates() {
    let files = fetch::TlsFiles {
        client: Some((b"x".to_vec(), b"y".to_vec())),
        verify: true,
        ..fetch::TlsFiles::default()
    };
    assert!(matches!(
        fetch::Tls::new(&files),
        Err(Error::Certificate(_))
    ));
}
