//! The machine's stores of certificates: what is in its registry, not what a policy adds to it.

use std::io;

use windows_sys::Win32::Security::Cryptography::{
    CERT_CONTEXT, CERT_STORE_ADD_USE_EXISTING, CERT_STORE_PROV_SYSTEM_REGISTRY_W, CERT_SYSTEM_STORE_LOCAL_MACHINE,
    CertAddEncodedCertificateToStore, CertCloseStore, CertDeleteCertificateFromStore, CertDuplicateCertificateContext,
    CertEnumCertificatesInStore, CertFreeCertificateContext, CertOpenStore, HCERTSTORE, X509_ASN_ENCODING,
};

use super::{check, wide};
use crate::machine::CertificateStore;
use crate::package::sum;

/// An open store.
struct Store(HCERTSTORE);

impl Store {
    fn open(store: CertificateStore) -> io::Result<Self> {
        let name = wide(match store {
            CertificateStore::Root => "ROOT",
            CertificateStore::TrustedPublisher => "TrustedPublisher",
        });
        // SAFETY: the name ends with a NUL and outlives the call; the provider is one that takes a name.
        let handle = unsafe {
            CertOpenStore(
                CERT_STORE_PROV_SYSTEM_REGISTRY_W,
                0,
                0,
                CERT_SYSTEM_STORE_LOCAL_MACHINE,
                name.as_ptr().cast(),
            )
        };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    /// A certificate, as one that has to be freed or deleted.
    fn find(&self, sha256: &str) -> Option<*mut CERT_CONTEXT> {
        let mut at: *mut CERT_CONTEXT = std::ptr::null_mut();
        loop {
            // SAFETY: the store is open; the certificate before is this store's or null, and is freed by the call.
            at = unsafe { CertEnumCertificatesInStore(self.0, at) };
            if at.is_null() {
                return None;
            }
            // SAFETY: the certificate is there until the next call, and its bytes with it.
            let content = unsafe { std::slice::from_raw_parts((*at).pbCertEncoded, (*at).cbCertEncoded as usize) };
            if sum(content) == sha256 {
                // SAFETY: the certificate is there; the copy counts for itself.
                let copy = unsafe { CertDuplicateCertificateContext(at) };
                // SAFETY: it is freed once; it is not enumerated on.
                unsafe { CertFreeCertificateContext(at) };
                return Some(copy);
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the store is open and closed once.
        unsafe { CertCloseStore(self.0, 0) };
    }
}

pub fn has(store: CertificateStore, sha256: &str) -> io::Result<bool> {
    let found = Store::open(store)?.find(sha256);
    // SAFETY: it is freed once.
    Ok(found.is_some_and(|certificate| unsafe { CertFreeCertificateContext(certificate) } != 0))
}

pub fn add(store: CertificateStore, certificate: &[u8]) -> io::Result<()> {
    let store = Store::open(store)?;
    // SAFETY: the store is open; the bytes and their length go together; no certificate is asked for.
    check(unsafe {
        CertAddEncodedCertificateToStore(
            store.0,
            X509_ASN_ENCODING,
            certificate.as_ptr(),
            certificate.len() as u32,
            CERT_STORE_ADD_USE_EXISTING,
            std::ptr::null_mut(),
        )
    })
}

pub fn remove(store: CertificateStore, sha256: &str) -> io::Result<()> {
    let store = Store::open(store)?;
    match store.find(sha256) {
        None => Ok(()),
        // SAFETY: it is this store's; the call frees it, also where it fails.
        Some(certificate) => check(unsafe { CertDeleteCertificateFromStore(certificate) }),
    }
}
