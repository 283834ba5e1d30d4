//! The single requests, in our words: keys, bytes, sizes.

use super::{
    Encryption,
    auth::Source,
    error::{Tried, is_expired},
};
use crate::storage::{Error, Result, patience::Patience};
use bytes::{Bytes, BytesMut};
use futures::{
    TryStreamExt,
    stream::{self, BoxStream},
};
use rusoto_core::RusotoError;
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload, CompletedPart,
    CopyObjectRequest, CreateMultipartUploadRequest, Delete, DeleteObjectRequest, DeleteObjectsRequest,
    GetObjectRequest, HeadObjectRequest, ListMultipartUploadsRequest, ListObjectsV2Request, ObjectIdentifier,
    PutObjectRequest, S3, S3Client, UploadPartCopyRequest, UploadPartRequest,
};
use std::{ops::Range, sync::Arc};

/// What a page of a listing holds: keys and sizes.
pub type Page = Vec<(String, u64)>;

/// What the first answer tells about an object.
#[derive(Debug, Clone)]
pub struct Seen {
    pub size: u64,
    pub tag: Option<String>,
}

#[derive(Debug)]
pub struct Calls {
    pub client: S3ClientBox,
    pub store: Arc<str>,
    pub bucket: String,
    pub encryption: Encryption,
    pub storage_class: Option<String>,
    pub source: Arc<Source>,
}

/// rusoto's client has no `Debug`.
pub struct S3ClientBox(pub S3Client);

impl std::fmt::Debug for S3ClientBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Client")
    }
}

/// The headers of the encryption that requests carry.
#[derive(Default)]
struct Sealed {
    algorithm: Option<String>,
    kms_key: Option<String>,
    customer_algorithm: Option<String>,
    customer_key: Option<String>,
    customer_md5: Option<String>,
}

impl Calls {
    fn client(&self) -> &S3Client {
        &self.client.0
    }

    fn tried<'a>(&'a self, action: &'static str, name: &'a str) -> Tried<'a> {
        Tried { store: &self.store, action, name }
    }

    /// Sorts an error. One that says that temporary credentials have expired makes us get new ones, and is worth a repetition.
    async fn sort<E: std::error::Error + 'static>(&self, tried: Tried<'_>, error: RusotoError<E>) -> Error {
        let error = tried.sort(error);
        if is_expired(&error) && self.source.forget().await {
            return tried.failed(error.to_string(), true);
        }
        error
    }

    fn sealed(&self) -> Sealed {
        match &self.encryption {
            Encryption::None => Sealed::default(),
            Encryption::StoreKeys { algorithm } => Sealed { algorithm: Some(algorithm.clone()), ..Sealed::default() },
            Encryption::Kms { algorithm, key } => {
                Sealed { algorithm: Some(algorithm.clone()), kms_key: Some(key.clone()), ..Sealed::default() }
            }
            Encryption::Customer(key) => Sealed {
                customer_algorithm: Some(key.algorithm.clone()),
                customer_key: Some(key.key.clone()),
                customer_md5: Some(key.md5.clone()),
                ..Sealed::default()
            },
        }
    }

    pub async fn put(&self, key: &str, name: &str, content: Bytes) -> Result<()> {
        let sealed = self.sealed();
        let request = PutObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            content_length: Some(length(content.len() as u64)),
            body: Some(once(content)),
            storage_class: self.storage_class.clone(),
            server_side_encryption: sealed.algorithm,
            ssekms_key_id: sealed.kms_key,
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..PutObjectRequest::default()
        };
        match self.client().put_object(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.sort(self.tried("put", name), error).await),
        }
    }

    /// The bytes of a range, cut at the object's end, and what the answer tells; `None` if the range starts at the end or
    /// after it. With a `tag` the object must still be the same.
    pub async fn get(
        &self,
        key: &str,
        name: &str,
        range: Range<u64>,
        tag: Option<&str>,
    ) -> Result<Option<(Bytes, Seen)>> {
        let sealed = self.sealed();
        let request = GetObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            range: Some(format!("bytes={}-{}", range.start, range.end - 1)),
            if_match: tag.map(str::to_owned),
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..GetObjectRequest::default()
        };
        let tried = self.tried("get", name);
        let output = match self.client().get_object(request).await {
            Ok(output) => output,
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 416 => return Ok(None),
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 412 => {
                return Err(tried.failed("it was replaced while it was read".to_owned(), false));
            }
            Err(error) => return Err(self.sort(tried, error).await),
        };
        // Not every store looks at the condition.
        if tag.is_some() && output.e_tag.as_deref() != tag {
            return Err(tried.failed("it was replaced while it was read".to_owned(), false));
        }
        let begun = range.start;
        let length = output.content_length.and_then(|it| u64::try_from(it).ok());
        let size = match (output.content_range.as_deref().map(total), length) {
            (Some(Some(size)), _) => size,
            // An answer without a range is the whole object.
            (None, Some(size)) if begun == 0 => size,
            _ => return Err(tried.failed("the answer does not tell the object's size".to_owned(), false)),
        };
        let want = usize::try_from(size.min(range.end) - begun.min(size))
            .map_err(|error| tried.failed(error.to_string(), false))?;
        let mut content = BytesMut::with_capacity(want);
        if let Some(mut body) = output.body {
            while let Some(piece) = body.try_next().await.map_err(|error| tried.failed(error.to_string(), true))? {
                content.extend_from_slice(&piece[..piece.len().min(want - content.len())]);
                if content.len() == want {
                    break;
                }
            }
        }
        if content.len() < want {
            return Err(tried.failed(format!("only {} of {want} bytes came", content.len()), true));
        }
        Ok(Some((content.freeze(), Seen { size, tag: output.e_tag })))
    }

    pub async fn size(&self, key: &str, name: &str) -> Result<u64> {
        let sealed = self.sealed();
        let request = HeadObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..HeadObjectRequest::default()
        };
        let tried = self.tried("stat", name);
        match self.client().head_object(request).await {
            Ok(output) => output
                .content_length
                .and_then(|it| u64::try_from(it).ok())
                .ok_or_else(|| tried.failed("the answer does not tell the object's size".to_owned(), false)),
            Err(error) => match self.sort(tried.clone(), error).await {
                // Answers to HEAD have no body, so the reason of a refusal has to be asked for in another way.
                refused @ Error::Denied { .. } => match self.get(key, name, 0..1, None).await {
                    Err(explained @ Error::Denied { .. }) => Err(explained),
                    _ => Err(refused),
                },
                error => Err(error),
            },
        }
    }

    /// All keys that begin with `folder`, page after page. A page that fails in passing is asked for again.
    pub fn pages(&self, folder: String, patience: Patience) -> BoxStream<'_, Result<Page>> {
        let first = Some(None::<String>);
        Box::pin(stream::try_unfold(first, move |next| {
            let folder = folder.clone();
            async move {
                let Some(token) = next else { return Ok(None) };
                let call = || self.page(&folder, token.clone());
                let (page, next) = patience.repeat("list", &folder, call).await?;
                Ok(Some((page, next.map(Some))))
            }
        }))
    }

    async fn page(&self, folder: &str, token: Option<String>) -> Result<(Page, Option<String>)> {
        let request = ListObjectsV2Request {
            bucket: self.bucket.clone(),
            prefix: Some(folder.to_owned()).filter(|it| !it.is_empty()),
            continuation_token: token.clone(),
            ..ListObjectsV2Request::default()
        };
        let tried = self.tried("list", folder);
        let output = match self.client().list_objects_v2(request).await {
            Ok(output) => output,
            Err(error) => return Err(self.sort(tried, error).await),
        };
        let next = output.next_continuation_token.filter(|_| output.is_truncated == Some(true));
        if output.is_truncated == Some(true) && (next.is_none() || next == token) {
            return Err(tried.failed("the listing is cut and can't be continued".to_owned(), false));
        }
        let found = output.contents.unwrap_or_default().into_iter().filter_map(|object| {
            let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            Some((object.key?, size))
        });
        Ok((found.collect(), next))
    }

    pub async fn delete(&self, key: &str, name: &str) -> Result<()> {
        let request =
            DeleteObjectRequest { bucket: self.bucket.clone(), key: key.to_owned(), ..DeleteObjectRequest::default() };
        match self.client().delete_object(request).await {
            Ok(_) => Ok(()),
            Err(error) => match self.sort(self.tried("delete", name), error).await {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Deletes the keys of a page by one request, or one by one where the store doesn't know that.
    pub async fn delete_many(&self, keys: &[String], name: &str) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let objects = keys.iter().map(|key| ObjectIdentifier { key: key.clone(), version_id: None }).collect();
        let request = DeleteObjectsRequest {
            bucket: self.bucket.clone(),
            delete: Delete { objects, quiet: Some(true) },
            ..DeleteObjectsRequest::default()
        };
        let tried = self.tried("delete", name);
        let output = match self.client().delete_objects(request).await {
            Ok(output) => output,
            Err(RusotoError::Unknown(answer)) if matches!(answer.status.as_u16(), 405 | 501) => {
                for key in keys {
                    self.delete(key, key).await?;
                }
                return Ok(());
            }
            Err(error) => return Err(self.sort(tried, error).await),
        };
        let Some(failed) = output.errors.unwrap_or_default().into_iter().next() else { return Ok(()) };
        let key = failed.key.unwrap_or_default();
        let code = failed.code.unwrap_or_default();
        let reason = format!("{code}: {}", failed.message.unwrap_or_default());
        if code == "AccessDenied" {
            return Err(Error::Denied { store: self.store.to_string(), action: "delete", name: key, reason });
        }
        let passing = matches!(code.as_str(), "InternalError" | "SlowDown" | "ServiceUnavailable");
        Err(self.tried("delete", &key).failed(reason, passing))
    }

    /// Begins an upload in parts and returns its id.
    pub async fn begin(&self, key: &str, name: &str) -> Result<String> {
        let sealed = self.sealed();
        let request = CreateMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            storage_class: self.storage_class.clone(),
            server_side_encryption: sealed.algorithm,
            ssekms_key_id: sealed.kms_key,
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..CreateMultipartUploadRequest::default()
        };
        let tried = self.tried("put", name);
        match self.client().create_multipart_upload(request).await {
            Ok(output) => {
                output.upload_id.ok_or_else(|| tried.failed("the store gave the upload no id".to_owned(), true))
            }
            Err(error) => Err(self.sort(tried, error).await),
        }
    }

    /// Stores one part and returns its ETag.
    pub async fn part(&self, key: &str, name: &str, upload: &str, number: u32, content: Bytes) -> Result<String> {
        let sealed = self.sealed();
        let request = UploadPartRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            part_number: i64::from(number),
            content_length: Some(length(content.len() as u64)),
            body: Some(once(content)),
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..UploadPartRequest::default()
        };
        let tried = self.tried("put", name);
        match self.client().upload_part(request).await {
            Ok(output) => output.e_tag.ok_or_else(|| tried.failed("the store did not confirm a part".to_owned(), true)),
            Err(error) => Err(self.sort(tried, error).await),
        }
    }

    /// Copies a range of an object into a part and returns its ETag.
    pub async fn part_of(
        &self,
        (from, range): (&str, Range<u64>),
        (key, name): (&str, &str),
        upload: &str,
        number: u32,
    ) -> Result<String> {
        let sealed = self.sealed();
        let request = UploadPartCopyRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            part_number: i64::from(number),
            copy_source: self.copy_source(from),
            copy_source_range: Some(format!("bytes={}-{}", range.start, range.end - 1)),
            copy_source_sse_customer_algorithm: sealed.customer_algorithm.clone(),
            copy_source_sse_customer_key: sealed.customer_key.clone(),
            copy_source_sse_customer_key_md5: sealed.customer_md5.clone(),
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..UploadPartCopyRequest::default()
        };
        let tried = self.tried("copy", name);
        match self.client().upload_part_copy(request).await {
            Ok(output) => output
                .copy_part_result
                .and_then(|part| part.e_tag)
                .ok_or_else(|| tried.failed("the store did not confirm a part".to_owned(), true)),
            Err(error) => Err(self.sort(tried, error).await),
        }
    }

    /// Makes the object of its parts, given by their ETags in order.
    ///
    /// A store can answer `200 OK` and an error in the body, which the client takes for success: without an ETag it is none.
    pub async fn complete(&self, key: &str, name: &str, upload: &str, tags: &[String]) -> Result<()> {
        let parts =
            (1..).zip(tags).map(|(number, tag)| CompletedPart { part_number: Some(number), e_tag: Some(tag.clone()) });
        let request = CompleteMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            multipart_upload: Some(CompletedMultipartUpload { parts: Some(parts.collect()) }),
            ..CompleteMultipartUploadRequest::default()
        };
        let tried = self.tried("put", name);
        match self.client().complete_multipart_upload(request).await {
            Ok(output) if output.e_tag.is_some() => Ok(()),
            Ok(_) => Err(tried.failed("the store failed to put the parts together".to_owned(), true)),
            Err(error) => Err(self.sort(tried, error).await),
        }
    }

    pub async fn abort(&self, key: &str, name: &str, upload: &str) -> Result<()> {
        let request = AbortMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            ..AbortMultipartUploadRequest::default()
        };
        match self.client().abort_multipart_upload(request).await {
            Ok(_) => Ok(()),
            Err(error) => match self.sort(self.tried("abort", name), error).await {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Uploads that were begun under `folder` and neither completed nor aborted: keys and ids, at most a page.
    pub async fn open_uploads(&self, folder: &str, name: &str) -> Result<Vec<(String, String)>> {
        let request = ListMultipartUploadsRequest {
            bucket: self.bucket.clone(),
            prefix: Some(folder.to_owned()),
            ..ListMultipartUploadsRequest::default()
        };
        match self.client().list_multipart_uploads(request).await {
            Ok(output) => {
                let found = output.uploads.unwrap_or_default().into_iter();
                Ok(found.filter_map(|upload| Some((upload.key?, upload.upload_id?))).collect())
            }
            Err(error) => Err(self.sort(self.tried("list", name), error).await),
        }
    }

    pub async fn copy(&self, from: &str, key: &str, name: &str) -> Result<()> {
        let sealed = self.sealed();
        let request = CopyObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            copy_source: self.copy_source(from),
            storage_class: self.storage_class.clone(),
            server_side_encryption: sealed.algorithm,
            ssekms_key_id: sealed.kms_key,
            copy_source_sse_customer_algorithm: sealed.customer_algorithm.clone(),
            copy_source_sse_customer_key: sealed.customer_key.clone(),
            copy_source_sse_customer_key_md5: sealed.customer_md5.clone(),
            sse_customer_algorithm: sealed.customer_algorithm,
            sse_customer_key: sealed.customer_key,
            sse_customer_key_md5: sealed.customer_md5,
            ..CopyObjectRequest::default()
        };
        let tried = self.tried("copy", name);
        match self.client().copy_object(request).await {
            Ok(output) if output.copy_object_result.as_ref().is_some_and(|it| it.e_tag.is_some()) => Ok(()),
            Ok(_) => Err(tried.failed("the store failed to copy it".to_owned(), true)),
            Err(error) => Err(self.sort(tried, error).await),
        }
    }

    /// The header that names an object to be copied is a path, encoded.
    fn copy_source(&self, key: &str) -> String {
        rusoto_core::signature::encode_uri_path(&format!("{}/{key}", self.bucket))
    }
}

fn once(content: Bytes) -> rusoto_core::ByteStream {
    let size = content.len();
    rusoto_core::ByteStream::new_with_size(stream::once(async { Ok(content) }), size)
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The object's size in `bytes 0-9/1234`.
fn total(content_range: &str) -> Option<u64> {
    content_range.rsplit_once('/')?.1.parse().ok()
}
