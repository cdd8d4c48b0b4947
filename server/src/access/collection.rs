//! A collection of the registry whose documents are of one type.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use muster_core::registry::{Document, DocumentChange, Registry};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};

/// The documents of one name and type.
#[derive(Debug, Clone)]
pub struct Collection<T> {
    name: &'static str,
    registry: Registry,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    /// The collection `name` of the registry.
    pub fn new(name: &'static str, registry: &Registry) -> Self {
        Self { name, registry: registry.clone(), of: PhantomData }
    }

    /// Every document, by id.
    ///
    /// # Errors
    /// The registry cannot be read, or a document is not what it should be; its id is named.
    pub fn load(&self) -> Result<BTreeMap<String, T>, Error> {
        let name = self.name;
        let read = self.registry.documents(name);
        let documents =
            read.map_err(|error| Error::because(ErrorKind::Start, format!("cannot read {name}"), error))?;
        let parsed = documents.into_iter().map(|Document { id, body }| match serde_json::from_str(&body) {
            Ok(value) => Ok((id, value)),
            Err(error) => {
                let message = format!("`{id}` of {name} in the registry cannot be understood");
                Err(Error::because(ErrorKind::Start, message, error))
            }
        });
        parsed.collect()
    }

    /// One document, if it is there.
    ///
    /// # Errors
    /// As [`Collection::load`].
    pub fn one(&self, id: &str) -> Result<Option<T>, Error> {
        let name = self.name;
        let read = self.registry.document(name, id);
        let found =
            read.map_err(|error| Error::because(ErrorKind::Fatal, format!("cannot read {name}"), error))?;
        let parsed = found.map(|it| serde_json::from_str(&it.body)).transpose();
        parsed.map_err(|error| {
            let message = format!("`{id}` of {name} in the registry cannot be understood");
            Error::because(ErrorKind::Fatal, message, error)
        })
    }

    /// The change that stores `value` under `id`.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn put(&self, id: &str, value: &T) -> Result<DocumentChange, Error> {
        let collection = self.name;
        let body = serde_json::to_string(value).map_err(|error| {
            Error::because(ErrorKind::Fatal, format!("`{id}` of {collection} cannot be written"), error)
        })?;
        Ok(DocumentChange::Put { collection, document: Document { id: id.to_owned(), body } })
    }

    /// The change that removes `id`.
    pub fn remove(&self, id: &str) -> DocumentChange {
        DocumentChange::Remove { collection: self.name, id: id.to_owned() }
    }

    /// The change that removes all.
    pub fn clear(&self) -> DocumentChange {
        DocumentChange::Clear { collection: self.name }
    }

    /// Makes changes, also of other collections: all or none. They are durable when it returns.
    ///
    /// # Errors
    /// The registry refused; nothing is changed then.
    pub async fn commit(&self, changes: Vec<DocumentChange>) -> Result<(), Error> {
        let written = self.registry.change_documents(changes).await;
        let name = self.name;
        written.map_err(|error| Error::because(ErrorKind::Fatal, format!("cannot store {name}"), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(&dir.path().join("registry.db")).expect("a registry");
        let numbers = Collection::<u32>::new("numbers", &registry);
        let changes = vec![numbers.put("a", &1).expect("JSON"), numbers.put("b", &2).expect("JSON")];
        numbers.commit(changes).await.expect("stored");
        numbers.commit(vec![numbers.remove("a")]).await.expect("stored");
        assert_eq!(numbers.load().expect("numbers"), BTreeMap::from([("b".to_owned(), 2)]));
        let wrong = Collection::<String>::new("numbers", &registry).load().expect_err("no text");
        assert_eq!(wrong.to_string(), "`b` of numbers in the registry cannot be understood");
        numbers.commit(vec![numbers.clear()]).await.expect("stored");
        assert!(numbers.load().expect("numbers").is_empty());
    }
}
