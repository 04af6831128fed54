//! Another medium in a CD drive.

use std::time::Duration;

use hostler_qemu::hotplug::{MediumChange, change_medium};
use hostler_qmp::Qmp;
use hostler_types::CdromSpec;

use crate::blocking::blocking;
use crate::vm::actor::Actor;
use crate::vm::create::image_path;

/// How long a guest may take to open a tray that it has locked.
const TRAY: Duration = Duration::from_secs(3);

impl Actor {
    pub(super) async fn change_media(&mut self, qmp: &Qmp) {
        for drive in self.record.definition.vm.spec.cdroms.clone() {
            let subject = format!("cdrom {}", drive.name);
            if self.is_live(&subject) {
                self.change_drive(qmp, &subject, &drive).await;
            }
        }
    }

    async fn change_drive(&mut self, qmp: &Qmp, subject: &str, drive: &CdromSpec) {
        let path = match drive.image {
            None => None,
            Some(image) => {
                let (host, record) = (self.host.clone(), self.record.clone());
                match blocking(move || image_path(&host, &record, image)).await {
                    Ok(path) => Some(path),
                    Err(error) => return self.refuse_error(subject, &error),
                }
            }
        };
        match change_medium(qmp, &drive.name, path.as_deref(), TRAY).await {
            Ok(MediumChange::Done) => {
                let drives = self.record.running.iter_mut().flat_map(|r| &mut r.spec.cdroms);
                for known in drives.filter(|known| known.name == drive.name) {
                    known.image = drive.image;
                }
            }
            Ok(MediumChange::Locked) => self.refuse(
                subject,
                "the guest has locked the drive: what is in it is in use (unmount it there)",
            ),
            Err(error) => self.refuse_error(subject, &error),
        }
    }
}
