//! Secrets of customizations: sealed as soon as they are here, and opened only in what is sent to the
//! VM's host.

use hostler_pki::{Vault, VaultError};
use hostler_types::{Customization, SecretText};

use crate::error::ServiceError;

/// What a client sent, checked, its secrets sealed. A secret that is the placeholder of views stays
/// what it was in `before`.
///
/// # Errors
/// `invalid`.
pub(crate) fn sealed(
    vault: &Vault,
    asked: &Customization,
    before: Option<&Customization>,
) -> Result<Customization, ServiceError> {
    let mut customization = asked.clone();
    if let Some(before) = before {
        // What a view has shown may be sent back.
        customization.origin.clone_from(&before.origin);
        customization.run = before.run;
        customization.validate()?;
    } else {
        customization.validate_request("customization")?;
    }
    for secret in customization.secrets_mut().filter(|secret| !secret.is_redacted()) {
        *secret = vault.seal(secret);
    }
    if let Some(before) = before {
        keep(&mut customization, before.clone());
    }
    if customization.secrets_mut().any(|secret| secret.is_redacted()) {
        let reason = format!(
            "`{}` stands for a secret that is not shown, and there was none before",
            SecretText::REDACTED
        );
        return Err(ServiceError::invalid("customization", reason));
    }
    Ok(customization)
}

/// Puts the sealed secrets back where a client returned their placeholders.
fn keep(customization: &mut Customization, mut before: Customization) {
    let put = |to: &mut Option<SecretText>, from: Option<SecretText>| {
        if to.as_ref().is_some_and(SecretText::is_redacted) && from.is_some() {
            *to = from;
        }
    };
    for user in &mut customization.users {
        let same = before.users.iter_mut().find(|before| before.name == user.name);
        put(&mut user.password, same.and_then(|before| before.password.take()));
    }
    if let (Some(join), Some(before)) = (&mut customization.domain_join, before.domain_join)
        && join.password.is_redacted()
    {
        join.password = before.password;
    }
    if let (Some(windows), Some(before)) = (&mut customization.windows, before.windows) {
        put(&mut windows.administrator_password, before.administrator_password);
        put(&mut windows.product_key, before.product_key);
        put(&mut windows.unattend, before.unattend);
    }
    put(&mut customization.user_data, before.user_data);
}

/// Seals what was found in clear, such as in a definition of an older version.
pub(crate) fn seal(vault: &Vault, customization: Option<&mut Customization>) {
    let secrets = customization.into_iter().flat_map(Customization::secrets_mut);
    for secret in secrets.filter(|secret| !secret.is_sealed()) {
        *secret = vault.seal(secret);
    }
}

/// As the guest is to be told.
///
/// # Errors
/// The key is not there, or a secret was changed.
pub(crate) fn open(vault: &Vault, customization: &mut Customization) -> Result<(), VaultError> {
    for secret in customization.secrets_mut() {
        *secret = vault.open(secret)?;
    }
    Ok(())
}
