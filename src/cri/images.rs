//! containerd's own image store: CRI has no call to pin an image, a label in this one does it.

use std::collections::HashMap;
use std::time::Duration;

use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::connect::{Connection, LARGEST_ANSWER};
use super::generated::containerd::services::images::v1::images_client::ImagesClient;
use super::generated::containerd::services::images::v1::{Image, ListImagesRequest, UpdateImageRequest};
use super::generated::containerd::services::version::v1::version_client::VersionClient;
use super::generated::containerd::types::Descriptor;
use super::{Error, Settings};

/// The label that CRI reports as `pinned`, from containerd 1.7.
pub const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// Whose images the kubelet sees.
const NAMESPACE: &str = "k8s.io";

/// containerd's image store in the kubelet's namespace.
#[derive(Debug, Clone)]
pub struct ImageStore {
    connection: Connection,
}

/// A name in the store. containerd has one for each tag, each digest reference and the bare image id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Such as `docker.io/library/nginx:1.27`, `docker.io/library/nginx@sha256:…` or `sha256:…`.
    pub name: String,
    /// The digest of the manifest or index it points to.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes, without those of what it points to.
    pub size: i64,
    /// All labels.
    pub labels: HashMap<String, String>,
}

impl Named {
    /// Whether it carries the pin.
    pub fn is_pinned(&self) -> bool {
        self.labels.get(PINNED.0).is_some_and(|v| v == PINNED.1)
    }
}

impl ImageStore {
    /// The store behind `settings.endpoint`; nothing is dialled yet.
    ///
    /// # Errors
    /// [`Error::Endpoint`].
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self { connection: Connection::new(settings)? })
    }

    /// containerd's version, such as `1.7.24`.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] where the runtime is not containerd.
    pub async fn version(&self) -> Result<String, Error> {
        let mut client = VersionClient::new(self.connection.channel.clone());
        Ok(self.connection.call("containerd's Version", Duration::ZERO, client.version(())).await?.version)
    }

    /// Every name in the store.
    ///
    /// # Errors
    /// The call's.
    pub async fn list(&self) -> Result<Vec<Named>, Error> {
        let request = in_namespace(ListImagesRequest::default());
        let mut images = self.images();
        let answer = self.connection.call("containerd's Images.List", Duration::ZERO, images.list(request));
        Ok(answer.await?.images.into_iter().map(named).collect())
    }

    /// Sets or removes one label of an image, as it was listed, and leaves the others; an empty `value` removes it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the image is gone, or the call's.
    pub async fn set_label(&self, image: &Named, label: &str, value: &str) -> Result<(), Error> {
        // The mask says that the target stays as it is. It must be sent all the same: containerd 1.7.24 looks
        // at it in any case, and without it the whole of containerd ends with a nil pointer.
        let target = Descriptor {
            media_type: image.media_type.clone(),
            digest: image.digest.clone(),
            size: image.size,
            ..Descriptor::default()
        };
        let image = Image {
            name: image.name.clone(),
            labels: HashMap::from([(label.to_owned(), value.to_owned())]),
            target: Some(target),
            ..Image::default()
        };
        let mask = prost_types::FieldMask { paths: vec![format!("labels.{label}")] };
        let request =
            UpdateImageRequest { image: Some(image), update_mask: Some(mask), source_date_epoch: None };
        let mut images = self.images();
        let answer = images.update(in_namespace(request));
        self.connection.call("containerd's Images.Update", Duration::ZERO, answer).await?;
        Ok(())
    }

    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.connection.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

fn named(image: Image) -> Named {
    let target = image.target.unwrap_or_default();
    Named {
        name: image.name,
        digest: target.digest,
        media_type: target.media_type,
        size: target.size,
        labels: image.labels,
    }
}
