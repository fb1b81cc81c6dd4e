//! Xen drivers of other suites. Two suites on one machine fight for the same devices, so they are named, with what told of
//! them, and with how they are removed.

use std::collections::BTreeSet;
use std::fmt;

use crate::check::{Device, Facts, Service};
use crate::machine::StoredDriver;

/// Another suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// XenServer VM Tools, once Citrix'.
    XenServer,
    /// XCP-ng's.
    XcpNg,
    /// Qubes Windows Tools.
    Qubes,
    /// The Xen Project's win-pv.
    XenProject,
    /// GPLPV and its successor EJBPV.
    Gplpv,
    /// One of the family of win-pv, that does not say which.
    Unknown,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::XenServer => "XenServer VM Tools (Citrix)",
            Self::XcpNg => "XCP-ng Windows PV tools",
            Self::Qubes => "Qubes Windows Tools",
            Self::XenProject => "Xen Project Windows PV drivers",
            Self::Gplpv => "GPLPV or EJBPV",
            Self::Unknown => "Xen PV drivers of another suite",
        }
    }

    fn removal(self) -> &'static str {
        match self {
            Self::XenServer => {
                "remove \"XenServer VM Tools\" (or \"Citrix VM Tools\") in Settings, Apps; restart; turn the pool's \
                 \"Manage Citrix PV drivers via Windows Update\" off for this VM"
            }
            Self::XcpNg => "remove \"XCP-ng Windows PV Tools\" in Settings, Apps, or run XCP-ng's XenClean; restart",
            Self::Qubes => "remove \"Qubes Windows Tools\" in Settings, Apps; restart",
            Self::XenProject | Self::Unknown => {
                "for each of them that `pnputil /enum-drivers` lists: pnputil /delete-driver oemNN.inf /uninstall; \
                 restart"
            }
            Self::Gplpv => {
                "remove \"GPLPV\" (or \"EJBPV\") in Settings, Apps; remove GPLPV and NOGPLPV from the boot entry; restart"
            }
        }
    }
}

/// A suite that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Which.
    pub suite: Suite,
    /// What told of it.
    pub evidence: Vec<String>,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another suite is installed: {}", self.suite.name())?;
        for line in &self.evidence {
            write!(f, "\n  found: {line}")?;
        }
        write!(f, "\n  to remove it: {}", self.suite.removal())
    }
}

/// Whose a provider is, by words in its name.
const PROVIDERS: [(&str, Suite); 10] = [
    ("citrix", Suite::XenServer),
    ("xenserver", Suite::XenServer),
    ("cloud software group", Suite::XenServer),
    ("xcp-ng", Suite::XcpNg),
    ("vates", Suite::XcpNg),
    ("qubes", Suite::Qubes),
    ("invisible things", Suite::Qubes),
    ("xen project", Suite::XenProject),
    ("james harper", Suite::Gplpv),
    ("ejbdigital", Suite::Gplpv),
];
/// Catalogs of drivers of these suites.
const CATALOGS: [&str; 20] = [
    "xenbus.cat",
    "xenvif.cat",
    "xennet.cat",
    "xenvbd.cat",
    "xeniface.cat",
    "xencons.cat",
    "xenhid.cat",
    "xenvkbd.cat",
    "xenbus_monitor.cat",
    "xensvc.cat",
    "xenpci.cat",
    "xenscsi.cat",
    "xenusb.cat",
    "xenhide.cat",
    "xenstub.cat",
    "gplpv.cat",
    "xen.cat",
    "xenfilt.cat",
    "xendisk.cat",
    "xenlite.cat",
];
/// Providers of this project's packages.
const OURS: [&str; 2] = ["Xen PV drivers", "Xen PV drivers in Rust"];
/// Services that no driver of this project is called.
const WIN_PV_SERVICES: [&str; 15] = [
    "xen",
    "xenbus",
    "xenfilt",
    "xendisk",
    "xencrsh",
    "xenvif",
    "xeniface",
    "xencons",
    "xenhid",
    "xenvkbd",
    "xenagent",
    "xensvc",
    "xenbus_monitor",
    "xencons_monitor",
    "xenlite",
];
/// GPLPV's that no driver of this project is called.
const GPLPV_SERVICES: [&str; 5] = ["xenscsi", "xenusb", "xencache", "xenconfig", "xenaddresource"];
/// Services that others have too. Whose one is, its image tells.
const SHARED_SERVICES: [&str; 6] = ["xenpci", "xenvbd", "xennet", "xenhide", "xenstub", "shutdownmon"];

/// Every service that is worth a look.
pub fn services_to_look_at() -> impl Iterator<Item = &'static str> {
    WIN_PV_SERVICES.into_iter().chain(GPLPV_SERVICES).chain(SHARED_SERVICES)
}

fn of_driver(driver: &StoredDriver) -> Option<Suite> {
    let identity = &driver.identity;
    if OURS.contains(&identity.provider.as_str()) {
        return None;
    }
    let provider = identity.provider.to_ascii_lowercase();
    let known = PROVIDERS.iter().find(|(word, _)| provider.contains(word)).map(|(_, suite)| *suite);
    let is_xen = CATALOGS.contains(&identity.catalog.as_str());
    // Citrix and Vates make other drivers too.
    is_xen.then_some(known.unwrap_or(Suite::Unknown))
}

fn of_service(service: &Service) -> Option<Suite> {
    let name = service.name.to_ascii_lowercase();
    let image = service.image.to_ascii_lowercase();
    if WIN_PV_SERVICES.contains(&name.as_str()) {
        return Some(Suite::Unknown);
    }
    if GPLPV_SERVICES.contains(&name.as_str()) {
        return Some(Suite::Gplpv);
    }
    if !SHARED_SERVICES.contains(&name.as_str()) {
        return None;
    }
    // This project's drivers run from the driver store alone. A package of another suite that does too is found there.
    let of_old_place = image.contains(r"system32\drivers\");
    match name.as_str() {
        "xenvbd" | "xennet" => of_old_place.then_some(Suite::Unknown),
        // GPLPV's own folder; this project's is another.
        "shutdownmon" => {
            let folders = [r"\xen pv drivers\bin\", r"\gplpv", r"\ejbpv"];
            folders.iter().any(|folder| image.contains(folder)).then_some(Suite::Gplpv)
        }
        _ => of_old_place.then_some(Suite::Gplpv),
    }
}

fn of_device(device: &Device) -> Option<Suite> {
    let id = device.id.to_ascii_uppercase();
    if id.starts_with(r"XEN\") {
        return Some(Suite::Gplpv);
    }
    let rest = id.strip_prefix(r"XENBUS\VEN_").or_else(|| id.strip_prefix(r"XENVIF\VEN_"))?;
    Some(match rest.get(..2) {
        Some("XS") => Suite::XenServer,
        Some("XN") => Suite::XcpNg,
        Some("XP") => Suite::XenProject,
        _ => Suite::Unknown,
    })
}

/// The suites that are there.
pub fn found(facts: &Facts) -> Vec<Foreign> {
    let drivers = facts.drivers.iter().filter_map(|driver| {
        let identity = &driver.identity;
        let text = format!(
            "driver package {} ({} of \"{}\", version {})",
            driver.published, identity.catalog, identity.provider, identity.version
        );
        Some((of_driver(driver)?, text))
    });
    let services = facts
        .services
        .iter()
        .filter_map(|service| Some((of_service(service)?, format!("service {} ({})", service.name, service.image))));
    let devices = facts.devices.iter().filter_map(|device| {
        let driver = if device.service.is_empty() { "no driver" } else { &device.service };
        Some((of_device(device)?, format!("device {} ({driver})", device.id)))
    });
    let mut all: Vec<(Suite, String)> = drivers.chain(services).chain(devices).collect();
    // What does not say whose it is belongs to the one suite that does, if there is one.
    let named: BTreeSet<Suite> =
        all.iter().map(|(suite, _)| *suite).filter(|suite| ![Suite::Unknown, Suite::Gplpv].contains(suite)).collect();
    if let (1, Some(only)) = (named.len(), named.first()) {
        for (suite, _) in &mut all {
            if *suite == Suite::Unknown {
                *suite = *only;
            }
        }
    }
    let suites: BTreeSet<Suite> = all.iter().map(|(suite, _)| *suite).collect();
    let evidence = |suite| all.iter().filter(|(of, _)| *of == suite).map(|(_, text)| text.clone()).collect();
    suites.into_iter().map(|suite| Foreign { suite, evidence: evidence(suite) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inf::{Identity, Version};

    fn driver(catalog: &str, provider: &str) -> StoredDriver {
        let identity = Identity { catalog: catalog.into(), provider: provider.into(), version: Version([9, 1, 0, 0]) };
        StoredDriver { published: "oem7.inf".into(), identity }
    }

    fn service(name: &str, image: &str) -> Service {
        Service { name: name.into(), image: image.into() }
    }

    fn device(id: &str) -> Device {
        Device { id: id.into(), service: "xenvbd".into() }
    }

    fn suites(facts: &Facts) -> Vec<Suite> {
        found(facts).into_iter().map(|foreign| foreign.suite).collect()
    }

    #[test]
    fn each_suite_is_told_by_each_thing_of_it() {
        let drivers = [
            ("xenvbd.cat", "Citrix Systems, Inc.", Suite::XenServer),
            ("xenbus.cat", "Cloud Software Group, Inc.", Suite::XenServer),
            ("xennet.cat", "XCP-ng", Suite::XcpNg),
            ("xenvif.cat", "Vates SAS", Suite::XcpNg),
            ("xeniface.cat", "Qubes OS", Suite::Qubes),
            ("xenbus.cat", "Xen Project", Suite::XenProject),
            ("xenpci.cat", "James Harper", Suite::Gplpv),
            ("xenbus.cat", "Somebody", Suite::Unknown),
        ];
        for (catalog, provider, suite) in drivers {
            let facts = Facts { drivers: vec![driver(catalog, provider)], ..Facts::default() };
            assert_eq!(suites(&facts), [suite], "{catalog} of {provider}");
        }
        let services = [
            ("XenBus", r"system32\drivers\xenbus.sys", Suite::Unknown),
            ("XENFILT", r"\SystemRoot\System32\drivers\xenfilt.sys", Suite::Unknown),
            ("xenvbd", r"System32\drivers\xenvbd.sys", Suite::Unknown),
            ("XenPci", r"system32\DRIVERS\xenpci.sys", Suite::Gplpv),
            ("xenusb", "", Suite::Gplpv),
            ("ShutdownMon", r"C:\Program Files\Xen PV Drivers\bin\shutdownmon.exe", Suite::Gplpv),
        ];
        for (name, image, suite) in services {
            let facts = Facts { services: vec![service(name, image)], ..Facts::default() };
            assert_eq!(suites(&facts), [suite], "{name} at {image}");
        }
        let devices = [
            (r"XENBUS\VEN_XS0001&DEV_VBD&REV_09000009\_", Suite::XenServer),
            (r"xenvif\ven_xn0001&dev_net\0", Suite::XcpNg),
            (r"XENBUS\VEN_XP0002&DEV_IFACE\_", Suite::XenProject),
            (r"XENBUS\VEN_", Suite::Unknown),
            (r"XEN\VBD\768", Suite::Gplpv),
        ];
        for (id, suite) in devices {
            let facts = Facts { devices: vec![device(id)], ..Facts::default() };
            assert_eq!(suites(&facts), [suite], "{id}");
        }
    }

    #[test]
    fn what_does_not_say_whose_it_is_belongs_to_the_one_that_does() {
        let facts = Facts {
            drivers: vec![driver("xenbus.cat", "XCP-ng")],
            services: vec![service("xenbus", "x"), service("xendisk", "y")],
            devices: vec![device(r"XENBUS\VEN_XN0001&DEV_VIF\_")],
            ..Facts::default()
        };
        let all = found(&facts);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].evidence.len(), 4);
        let text = all[0].to_string();
        assert!(text.contains("XCP-ng Windows PV tools") && text.contains("service xendisk (y)"), "{text}");
        assert!(text.contains("to remove it: "), "{text}");
    }

    #[test]
    fn this_suite_is_not_foreign_to_itself_nor_is_anybody_else() {
        let store = r"\SystemRoot\System32\DriverStore\FileRepository\xenvbd.inf_amd64_1\xenvbd.sys";
        let facts = Facts {
            drivers: vec![
                driver("xenvbd.cat", "Xen PV drivers"),
                driver("xenpci.cat", "Xen PV drivers in Rust"),
                driver("ctxusb.cat", "Citrix Systems, Inc."),
                driver("netkvm.cat", "Red Hat, Inc."),
            ],
            services: vec![
                service("xenvbd", store),
                service("shutdownmon", r#""C:\Program Files\Xen PV\shutdownmon.exe" service"#),
                service("storahci", r"system32\drivers\storahci.sys"),
            ],
            devices: vec![device(r"XENPV\VBD&REV_01\768"), device(r"PCI\VEN_5853&DEV_0001\3")],
            ..Facts::default()
        };
        assert_eq!(found(&facts), []);
    }
}
