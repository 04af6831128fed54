//! Downloads an image over HTTP(S), going on where an earlier attempt stopped.
//!
//! A download goes on only if the server vouches that the file is the same (`If-Range` with a
//! strong entity tag); else it begins anew. What is downloaded is trusted no more than an upload.

use std::time::Duration;

use hostler_agent_api::OperationProgress;
use hostler_host::Datastore;
use hostler_types::{ImageId, OperationId};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::upload::{PartWriter, leave_room, length, open};
use super::{ImageRecord, Images};
use crate::blocking::blocking;
use crate::fault::{Fault, chain};

const CONNECT: Duration = Duration::from_secs(15);
/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Broken connections in a row before giving up; the pause doubles from one second.
const ATTEMPTS: u32 = 5;
const REDIRECTS: usize = 10;

/// Which file the bytes of the `.part` file are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DownloadState {
    url: String,
    /// Strong; without one a download cannot go on.
    etag: Option<String>,
}

/// Why an attempt ended early.
enum Broken {
    /// Trying again may help.
    Retry(String),
    Final(Fault),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

impl Images {
    /// Fetches `url` into the image's `.part` file.
    pub(super) async fn download(
        &self,
        image: ImageId,
        datastore: &Datastore,
        url: &str,
        record: &mut ImageRecord,
        op: OperationId,
    ) -> Result<(), Fault> {
        let url = parse(url)?;
        let client = client()?;
        let mut attempt = 0;
        loop {
            let before = self.part_length(image, datastore).await?;
            match self.attempt(&client, image, datastore, &url, record, op).await {
                Ok(()) => return Ok(()),
                Err(Broken::Final(fault)) => return Err(fault),
                Err(Broken::Retry(reason)) => {
                    let progressed = self.part_length(image, datastore).await? > before;
                    attempt = if progressed { 1 } else { attempt + 1 };
                    if attempt >= ATTEMPTS {
                        return Err(Fault::Download(format!("{}: {reason}", shown(&url))));
                    }
                    tracing::info!(%image, reason, attempt, "the download broke; trying again");
                    tokio::time::sleep(Duration::from_secs(1 << (attempt - 1))).await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        client: &reqwest::Client,
        image: ImageId,
        datastore: &Datastore,
        url: &url::Url,
        record: &mut ImageRecord,
        op: OperationId,
    ) -> Result<(), Broken> {
        let received = self.resumable(image, datastore, url, record).await?;
        let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        let etag = record.download.as_ref().and_then(|state| state.etag.clone());
        if let (1.., Some(etag)) = (received, etag) {
            request = request.header(RANGE, format!("bytes={received}-")).header(IF_RANGE, etag);
        }
        let response = request.send().await.map_err(broken)?;
        let begin = self.accept(&response, image, datastore, url, record, received).await?;
        let Some(begin) = begin else { return Ok(()) };
        let total = response.content_length().map(|rest| begin + rest);
        if let Some(total) = total {
            leave_room(datastore, total - begin).await?;
        }
        let part = datastore.image_part(image);
        let file = blocking(move || open(&part, begin)).await?;
        let mut writer = PartWriter::new(datastore.clone(), file, begin);
        let result = self.receive(response, &mut writer, total, op).await;
        writer.finish().await?;
        result
    }

    /// Bytes that need not be fetched again. A `.part` file of something else is removed.
    async fn resumable(
        &self,
        image: ImageId,
        datastore: &Datastore,
        url: &url::Url,
        record: &ImageRecord,
    ) -> Result<u64, Fault> {
        let same = record
            .download
            .as_ref()
            .is_some_and(|state| state.url == url.as_str() && state.etag.is_some());
        if !same {
            self.start_over(image, datastore).await?;
        }
        self.part_length(image, datastore).await
    }

    /// Looks at the answer's head: where its bytes begin, or `None` when there are none to come.
    async fn accept(
        &self,
        response: &Response,
        image: ImageId,
        datastore: &Datastore,
        url: &url::Url,
        record: &mut ImageRecord,
        received: u64,
    ) -> Result<Option<u64>, Broken> {
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_begin(response.headers()) == Some(received) => {
                Ok(Some(received))
            }
            // The file is as long as what we have: it was complete.
            StatusCode::RANGE_NOT_SATISFIABLE
                if received > 0 && range_total(response.headers()) == Some(received) =>
            {
                Ok(None)
            }
            StatusCode::OK => {
                self.start_over(image, datastore).await?;
                let etag = strong_etag(response.headers());
                record.download = Some(DownloadState { url: url.to_string(), etag });
                self.save(image, record.clone()).await?;
                Ok(Some(0))
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                record.download = None;
                Err(Broken::Retry("the server does not go on where it stopped".to_owned()))
            }
            status if status.is_server_error() => {
                Err(Broken::Retry(format!("it answered {status}")))
            }
            status => {
                let text = format!("{} answered {status}", shown(url));
                Err(Broken::Final(Fault::Download(text)))
            }
        }
    }

    async fn receive(
        &self,
        mut response: Response,
        writer: &mut PartWriter,
        total: Option<u64>,
        op: OperationId,
    ) -> Result<(), Broken> {
        let mut told = None;
        while let Some(bytes) = response.chunk().await.map_err(broken)? {
            writer.write(&bytes).await?;
            let percent = total.map(|total| percent(writer.length(), total));
            // One word per percent; of an unknown whole, one per 16 MiB.
            let mark = percent.map_or(writer.length() >> 24, u64::from);
            if told.replace(mark) != Some(mark) {
                let activity = "downloading".to_owned();
                self.0.hub.progress(OperationProgress { op, percent, activity });
            }
        }
        match total {
            Some(total) if writer.length() < total => {
                Err(Broken::Retry("the connection ended too early".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn start_over(&self, image: ImageId, datastore: &Datastore) -> Result<(), Fault> {
        let datastore = datastore.clone();
        blocking(move || Ok(datastore.remove_image(image)?)).await
    }

    async fn part_length(&self, image: ImageId, datastore: &Datastore) -> Result<u64, Fault> {
        let part = datastore.image_part(image);
        blocking(move || length(&part).map(|length| length.bytes())).await
    }
}

fn parse(text: &str) -> Result<url::Url, Fault> {
    let wrong = |reason: &str| Fault::Invalid(format!("the image's address {reason}"));
    let url = url::Url::parse(text).map_err(|error| wrong(&format!("is not one: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(wrong(&format!("begins with `{scheme}:`; use http or https"))),
    }
}

fn client() -> Result<reqwest::Client, Fault> {
    let tls = hostler_pki::tls::web_client().map_err(|error| Fault::internal("TLS", &error))?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .referer(false)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| Fault::internal("an HTTP client", &error))
}

/// A connection that breaks may work at the next try; a certificate that is refused will not.
fn broken(error: reqwest::Error) -> Broken {
    let hopeless = error.is_redirect() || error.is_builder();
    // The URL may hold a secret.
    let text = chain(&error.without_url());
    if hopeless || text.contains("certificate") {
        return Broken::Final(Fault::Download(text));
    }
    Broken::Retry(text)
}

/// The address as it may be shown: without user, password and query.
fn shown(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{}", url.scheme(), url.path())
}

fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    (etag.starts_with('"') && etag.len() <= 256).then(|| etag.to_owned())
}

/// `bytes 100-199/200` begins at 100.
fn range_begin(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// `bytes */200` has 200 in all.
fn range_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.trim().parse().ok()
}

pub(super) fn percent(done: u64, total: u64) -> u8 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u8::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_are_downloaded() {
        for good in ["http://a/b", "https://a:1/b?c"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["file:///etc/passwd", "ftp://a/b", "gopher://a", "/etc/passwd", "nonsense", ""]
        {
            assert!(matches!(parse(bad), Err(Fault::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        let url = parse("https://user:secret@host/path?token=secret").unwrap();
        assert_eq!(shown(&url), "https://host/path");
    }

    #[test]
    fn ranges_are_read() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            headers
        };
        assert_eq!(range_begin(&headers("bytes 100-199/200")), Some(100));
        assert_eq!(range_total(&headers("bytes */200")), Some(200));
        assert_eq!(range_begin(&headers("bytes x-199/200")), None);
        assert_eq!((percent(0, 0), percent(1, 3), percent(9, 3)), (0, 33, 100));
    }
}
