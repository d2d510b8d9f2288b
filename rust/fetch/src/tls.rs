//! Trust, and who we are, as certificate files say it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result};

/// What a connection is made with; contents of PEM files.
#[derive(Default)]
pub struct TlsFiles {
    /// Authorities, any number in each.
    pub authorities: Vec<Vec<u8>>,
    /// Certificate chain and key of the client.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether the host has to show a certificate of an authority, for its name.
    pub verify: bool,
}

/// Settings that connections share; sessions are resumed between them.
#[derive(Clone)]
pub struct Tls(pub(crate) Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls") // a key is in it
    }
}

impl Tls {
    /// Parses the files.
    ///
    /// # Errors
    /// [`Error::Certificate`] when one of them has nothing usable.
    pub fn new(files: &TlsFiles) -> Result<Self> {
        let unusable =
            |what: &str, e: &dyn fmt::Display| Error::Certificate(format!("{what}: {e}"));
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("TLS versions", &e))?;
        let builder = if files.verify {
            let mut roots = RootCertStore::empty();
            for file in &files.authorities {
                for certificate in CertificateDer::pem_slice_iter(file) {
                    let certificate = certificate.map_err(|e| unusable("authority", &e))?;
                    // Stores of systems hold some that are too old for every verifier.
                    let _ = roots.add(certificate);
                }
            }
            builder.with_root_certificates(roots)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        };
        let config = match &files.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| unusable("client certificate", &e))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|e| unusable("client key", &e))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| unusable("client certificate", &e))?
            }
        };
        Ok(Self(Arc::new(config)))
    }
}

/// Takes any certificate, as `skip_verify` asks for; signatures of the handshake are checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
