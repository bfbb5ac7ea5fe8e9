//! A service on the web, on loopback, that answers as a test says and notes what it was asked.
#![allow(dead_code)] // each test file uses its part

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

/// What was asked, in order: the path with the query, percent-decoded, and the header `Authorization`.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// It lives until the test program ends.
pub struct Web {
    pub address: String,
    asked: Asked,
}

impl Web {
    /// Answers status and body for a path with its query.
    pub fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, answer) = (Asked::default(), Arc::new(answer));
        let noted = Arc::clone(&asked);
        let handler = move |uri: Uri, headers: HeaderMap| {
            let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
            async move {
                let path = decoded(uri.path_and_query().unwrap().as_str());
                let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
                noted.lock().unwrap().push((path.clone(), token));
                let (status, body) = tokio::task::spawn_blocking(move || answer(&path)).await.unwrap();
                (StatusCode::from_u16(status).unwrap(), body)
            }
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, Router::new().fallback(handler)).await.unwrap();
            });
        });
        Web { address, asked }
    }

    /// What it was asked since it was asked last.
    pub fn take_asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().drain(..).map(|(path, _)| path).collect()
    }

    /// The headers `Authorization` of all questions that are noted.
    pub fn tokens(&self) -> Vec<Option<String>> {
        self.asked.lock().unwrap().iter().map(|(_, token)| token.clone()).collect()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        match first {
            b'%' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
                rest = &more[2..];
            }
            byte => {
                bytes.push(*byte);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
