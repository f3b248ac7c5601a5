//! The server's own certificate authority and its serving certificate.
//!
//! The authority is made once and kept, so that kubeconfigs stay valid; the serving certificate is made at each start
//! for the address that is listened on, and its key never touches the disk.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use super::files;

pub struct Tls {
    pub server: Arc<ServerConfig>,
    /// The authority's certificate in PEM: what clients trust.
    pub ca_pem: String,
}

impl Tls {
    pub fn open(data_dir: &Path, listen: IpAddr) -> Result<Self> {
        let key_pem =
            files::read_or_create(&data_dir.join("ca.key"), || Ok(KeyPair::generate()?.serialize_pem()))?;
        let ca_key = KeyPair::from_pem(&key_pem).with_context(|| {
            let path = data_dir.join("ca.key");
            format!("{} is no private key in PEM: remove it and ca.crt to have new ones made", path.display())
        })?;
        let authority = authority();
        let ca_pem =
            files::read_or_create(&data_dir.join("ca.crt"), || Ok(authority.self_signed(&ca_key)?.pem()))?;

        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.push(listen.to_string());
        names.dedup();
        let mut serving = CertificateParams::new(names).context("name the serving certificate")?;
        serving.distinguished_name = name("federation-apiserver");
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        serving.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        serving.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("make the serving key")?;
        let certificate = serving
            .signed_by(&key, &Issuer::new(authority, ca_key))
            .context("sign the serving certificate")?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .context("use the serving certificate")?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { server: Arc::new(server), ca_pem })
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("federation-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
