//! Objects in a directory or a bucket, by the object_store crate.
//!
//! Its calls are asynchronous, ours block. A directory is read and written on the calling thread. A bucket's connections live on one
//! thread of the process that does nothing else, and the caller waits for them.

use super::memory::too_large;
use super::{Backend, Entry, Trouble};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_executor::{block_on, block_on_stream};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;

/// What object_store knows how to reach.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Before each path, with a slash at its end.
    base: String,
    /// Where connections live; none for a directory.
    connections: Option<Handle>,
}

/// The directory at `path`; what is written there is on the disk when the call comes back.
pub fn local(path: &std::path::Path, create: bool) -> Result<Objects> {
    match create {
        true => std::fs::create_dir_all(path).map_err(|error| {
            Error::unavailable(format!("the directory cannot be created: {error}")).caused_by(error)
        })?,
        false if !path.is_dir() => return Err(Error::invalid("there is no such directory")),
        false => {}
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Objects { store: Arc::new(store.with_fsync(true)), base: String::new(), connections: None })
}

/// A bucket, with credentials from the environment.
pub fn bucket(scheme: &str, bucket: &str, prefix: &str) -> Result<Objects> {
    // the store above tries again, and knows what may be tried; this is for credentials and reads
    let retry = RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() };
    // an object is sent with one request: the default of 30 s would be too short for a large one
    let (timeout, time) = (ClientConfigKey::Timeout, "300s");
    let built: Result<Arc<dyn ObjectStore>, object_store::Error> = match scheme {
        "s3" => AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_config(AmazonS3ConfigKey::Client(timeout), time)
            .build()
            .map(|store| Arc::new(store) as _),
        "gs" => GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_config(GoogleConfigKey::Client(timeout), time)
            .build()
            .map(|store| Arc::new(store) as _),
        _ => MicrosoftAzureBuilder::from_env()
            .with_container_name(bucket)
            .with_retry(retry)
            .with_config(AzureConfigKey::Client(timeout), time)
            .build()
            .map(|store| Arc::new(store) as _),
    };
    let store = built.map_err(|error| {
        let variables = match scheme {
            "s3" => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
            "gs" => "GOOGLE_SERVICE_ACCOUNT",
            _ => "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
        };
        Error::invalid(error.to_string()).help(format!("it is set up by the environment: {variables}"))
    })?;
    let base = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok(Objects { store, base, connections: Some(connections()?) })
}

/// The thread on which the connections of all buckets live.
fn connections() -> Result<Handle> {
    static THREAD: OnceLock<Handle> = OnceLock::new();
    if let Some(handle) = THREAD.get() {
        return Ok(handle.clone());
    }
    let failed = |error: std::io::Error| Error::unavailable(format!("no thread for connections: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    // of two that come at once one is kept; the other's thread waits for nothing
    std::thread::Builder::new()
        .name("store".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(failed)?;
    Ok(THREAD.get_or_init(|| handle).clone())
}

impl Objects {
    fn path(&self, path: &str) -> Result<Path, Trouble> {
        let whole = format!("{}{path}", self.base);
        let wrong = |error: object_store::path::Error| Trouble::Lasting(Error::corrupt(error.to_string()));
        Path::parse(whole.trim_end_matches('/')).map_err(wrong)
    }

    /// A path of the crate's as ours.
    fn ours(&self, path: &Path) -> String {
        let path = path.as_ref();
        path.strip_prefix(&self.base).unwrap_or(path).to_owned()
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        let _entered = self.connections.as_ref().map(Handle::enter);
        block_on(answer)
    }
}

fn trouble(error: object_store::Error) -> Trouble {
    use object_store::Error as Cause;
    let text = error.to_string();
    match error {
        Cause::AlreadyExists { .. } => Trouble::Exists,
        Cause::NotFound { .. } => Trouble::Lasting(
            Error::unavailable("the bucket or directory is not there")
                .caused_by(error)
                .help("create it, then start again"),
        ),
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => Trouble::Lasting(
            Error::unavailable(text)
                .caused_by(error)
                .help("the credentials in the environment must allow to read, create, list and delete"),
        ),
        Cause::InvalidPath { .. } | Cause::NotSupported { .. } | Cause::NotImplemented { .. } => {
            Trouble::Lasting(Error::invalid(text).caused_by(error))
        }
        _ => Trouble::Passing(Error::unavailable(text).caused_by(error)),
    }
}

impl Backend for Objects {
    fn create(&self, path: &str, bytes: Bytes) -> Result<(), Trouble> {
        let path = self.path(path)?;
        let put = self.store.put_opts(&path, PutPayload::from_bytes(bytes), PutMode::Create.into());
        self.wait(put).map(|_| ()).map_err(trouble)
    }

    fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Trouble> {
        let path = self.path(path)?;
        let answer = self.wait(async {
            let found = self.store.get(&path).await?;
            match found.meta.size {
                size if size > bytes_max => Ok(Err(size)),
                _ => found.bytes().await.map(Ok),
            }
        });
        match answer {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => Err(too_large(size, bytes_max)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, Trouble> {
        let path = self.path(path)?;
        let _entered = self.connections.as_ref().map(Handle::enter);
        let found = block_on_stream(self.store.list(Some(&path)));
        let entry = |found: Result<object_store::ObjectMeta, _>| {
            found.map(|meta| Entry {
                path: self.ours(&meta.location),
                bytes: meta.size,
                modified: meta.last_modified.timestamp_micros(),
            })
        };
        found.map(entry).collect::<Result<_, _>>().map_err(trouble)
    }

    fn delete(&self, path: &str) -> Result<(), Trouble> {
        let path = self.path(path)?;
        match self.wait(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(trouble(error)),
        }
    }

    fn folders(&self, path: &str) -> Result<Vec<String>, Trouble> {
        let path = self.path(path)?;
        let found = self.wait(self.store.list_with_delimiter(Some(&path))).map_err(trouble)?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    fn is_local(&self) -> bool {
        self.connections.is_none()
    }
}
