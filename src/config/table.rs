//! Every key of `edge.toml`, once. Reading, checking, `edge config` and the documentation all
//! come from this table; snap keys are the same words.
//!
//! A new key is one entry here and one field in the settings of the room that it belongs to.

use std::time::Duration;

use super::Config;
use super::rows::Rows;
use super::slot::Slot;

const MINUTE: Duration = Duration::from_secs(60);

/// One key.
pub struct Key {
    /// Its name with its section, such as `cloud.probe-interval`.
    pub path: &'static str,
    /// What it holds, and where that goes.
    pub slot: Slot<Config>,
    /// What it does, for the person who edits the file.
    pub help: &'static str,
}

impl Key {
    /// The section and the name within it.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

/// The longest span of self-heal; the unit of others.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All keys, in the order in which they are shown: those without a section first.
pub static KEYS: &[Key] = &[
    Key {
        path: "offline-mode",
        slot: Slot::Switch(|c| &mut c.offline_mode),
        help: "Whether the gateway keeps its pods running without the cloud. With false, nothing is cached and nothing is served from the cache.",
    },
    Key {
        path: "state-dir",
        slot: Slot::Path(|c| &mut c.state_dir),
        help: "The folder of everything that edge keeps: cache, images, certificates. To move it, stop edge and copy the folder first; under systemd, another one needs `ReadWritePaths=` in the unit.",
    },
    Key {
        path: "cloud.kubeconfig",
        slot: Slot::OptionalPath(|c| &mut c.cloud.kubeconfig, "/etc/edge/cloud.kubeconfig"),
        help: "Address and credentials of the cloud's API server; `edge join` writes it. Without it the proxy is off and everything else works.",
    },
    Key {
        path: "cloud.probe-interval",
        slot: Slot::Span(
            |c| &mut c.cloud.probe_interval,
            Duration::from_secs(1),
            Duration::from_secs(60 * 60),
        ),
        help: "How often edge asks the cloud for a sign of life while it is away. While the cloud answers, nothing is asked.",
    },
    Key {
        path: "proxy.listen",
        slot: Slot::Loopback(|c| &mut c.proxy.listen),
        help: "Where kubelet finds the proxy. After a change, run `edge join` again, which writes it in kubelet's kubeconfig, and restart edge and kubelet.",
    },
    Key {
        path: "proxy.in-cluster",
        slot: Slot::Switch(|c| &mut c.proxy.in_cluster),
        help: "Whether pods of this node reach the API server through edge too, so that network plugins, CoreDNS and operators start in an outage.",
    },
    Key {
        path: "proxy.in-cluster-listen",
        slot: Slot::LinkLocal(|c| &mut c.proxy.in_cluster_listen),
        help: "Where pods find the proxy: an address that edge puts on an interface of its own, `edge-api`; of IPv6, such as `[fd69:6467:6500::45]:6445`, where the Service `kubernetes` is. Containers that run keep the one they were started with.",
    },
    Key {
        path: "proxy.clients.cached",
        slot: Slot::Texts(|c| &mut c.proxy.clients.cached),
        help: "The clients whose readings are kept beside kubelet's: `*` for all, `NAMESPACE/ACCOUNT` or `NAMESPACE/*` by service account, `agent:NAME` by what they call themselves.",
    },
    Key {
        path: "proxy.clients.leave-out",
        slot: Slot::Texts(|c| &mut c.proxy.clients.leave_out),
        help: "Resources of which nothing is kept for those clients, as `RESOURCE.GROUP`: what is large, changes all the time, and is of no use when it is old.",
    },
    Key {
        path: "runtime.endpoint",
        slot: Slot::UnixSocket(|c| &mut c.runtime.endpoint),
        help: "The socket of containerd.",
    },
    Key {
        path: "runtime.pin-images",
        slot: Slot::Switch(|c| &mut c.runtime.pin_images),
        help: "Whether the images of this node's pods are pinned, so that kubelet never removes them.",
    },
    Key {
        path: "registry.listen",
        slot: Slot::Address(|c| &mut c.registry.listen),
        help: "Where images and charts are served.",
    },
    Key {
        path: "registry.pull-through",
        slot: Slot::Switch(|c| &mut c.registry.pull_through),
        help: "Whether an image that is not here is fetched from its upstream, and kept.",
    },
    Key {
        path: "registry.push",
        slot: Slot::Switch(|c| &mut c.registry.push),
        help: "Whether clients may push images and charts.",
    },
    Key {
        path: "registry.insecure-loopback-push",
        slot: Slot::Switch(|c| &mut c.registry.insecure_loopback_push),
        help: "Whether pushing needs no credential. Only with a loopback address in registry.listen.",
    },
    Key {
        path: "registry.push-sparse",
        slot: Slot::Switch(|c| &mut c.registry.push_sparse),
        help: "Whether an image may be pushed without all its layers. Otherwise it is refused, since a layer that is missing is mostly one that was lost.",
    },
    Key {
        path: "registry.htpasswd",
        slot: Slot::OptionalPath(|c| &mut c.registry.htpasswd, "/etc/edge/htpasswd"),
        help: "Users who may push, as `htpasswd -B` writes them; mode 0600.",
    },
    Key {
        path: "registry.tokens",
        slot: Slot::OptionalPath(|c| &mut c.registry.tokens, "/etc/edge/tokens"),
        help: "Bearer tokens that may push, one a line; mode 0600.",
    },
    Key {
        path: "registry.tls-certificate",
        slot: Slot::OptionalPath(|c| &mut c.registry.tls_certificate, "/etc/edge/tls.crt"),
        help: "The certificate chain to serve with (PEM). An address that is not loopback needs one, or registry.local-certificate.",
    },
    Key {
        path: "registry.tls-key",
        slot: Slot::OptionalPath(|c| &mut c.registry.tls_key, "/etc/edge/tls.key"),
        help: "The key of registry.tls-certificate (PEM); mode 0600.",
    },
    Key {
        path: "registry.local-certificate",
        slot: Slot::Switch(|c| &mut c.registry.local_certificate),
        help: "Whether to serve with a certificate of edge's own authority, state-dir/pki/ca.crt.",
    },
    Key {
        path: "registry.own-hosts",
        slot: Slot::Texts(|c| &mut c.registry.own_hosts),
        help: "Other names of this registry than loopback and registry.listen, such as `ship-7.local:5000`. A local certificate is good for them too.",
    },
    Key {
        path: "registry.docker-config",
        slot: Slot::OptionalPath(|c| &mut c.registry.docker_config, "/etc/edge/docker-config.json"),
        help: "Credentials for upstreams and credential helpers, as docker's config.json has them; mode 0600. The mirror uses them too.",
    },
    Key {
        path: "registry.authorities",
        slot: Slot::Paths(|c| &mut c.registry.authorities),
        help: "Files of certificates (PEM) of authorities that upstreams may have beside the system's. The mirror trusts them too.",
    },
    Key {
        path: "registry.proxy",
        slot: Slot::OptionalText(|c| &mut c.registry.proxy, "http://proxy.example.com:3128"),
        help: "The proxy to upstreams on other machines; without it that of HTTPS_PROXY. The mirror uses it too.",
    },
    Key {
        path: "registry.no-proxy",
        slot: Slot::OptionalText(|c| &mut c.registry.no_proxy, "10.0.0.0/8,.example.com"),
        help: "Hosts, domains and networks that are asked without the proxy; without it those of NO_PROXY.",
    },
    Key {
        path: "registry.size-limit",
        slot: Slot::OptionalSize(|c| &mut c.registry.size_limit, "8GiB"),
        help: "How much may be here that only pull-through brought and no pod needs; beyond it the least recently used goes. Without it nothing goes.",
    },
    Key {
        path: "registry.reserve",
        slot: Slot::Size(|c| &mut c.registry.reserve, 1 << 20, 1 << 40),
        help: "How much of the file system uploads and pulls leave free.",
    },
    Key {
        path: "registry.collect-interval",
        slot: Slot::Span(|c| &mut c.registry.collect_interval, MINUTE, DAY.saturating_mul(30)),
        help: "How often what nobody needs is removed, as `edge gc` does.",
    },
    Key {
        path: "registry.verify-interval",
        slot: Slot::Span(|c| &mut c.registry.verify_interval, MINUTE, DAY.saturating_mul(365)),
        help: "How often everything is read again in the background and what is damaged is mended, as `edge store verify` does.",
    },
    Key {
        path: "registry.verify-rate",
        slot: Slot::Rate(|c| &mut c.registry.verify_rate, 64 << 10, 1 << 40),
        help: "How fast that may read; `edge store verify` is told by its `--rate`.",
    },
    Key {
        path: "registry.upstreams",
        slot: Slot::Rows(&Rows(|c: &mut Config| &mut c.registry.upstreams)),
        help: "The registries that pull-through may ask, each a table with `host` (what images call it), and where needed `url`, `ca` (PEM file) and `insecure = true` (plain HTTP). Others are never asked.",
    },
    Key {
        path: "pods.kubelet-healthz",
        slot: Slot::Address(|c| &mut c.pods.kubelet_healthz),
        help: "Where kubelet answers for its health: `healthzBindAddress` and `healthzPort` of its configuration. While it does not, nothing is restarted.",
    },
    Key {
        path: "pods.self-heal.enabled",
        slot: Slot::Switch(|c| &mut c.pods.self_heal.enabled),
        help: "Whether edge restarts pods that fail again and again or whose network is broken. A pod's annotation `edge.io/self-heal` says otherwise for that pod; most of the keys below have one too, such as `edge.io/self-heal-failures`.",
    },
    Key {
        path: "pods.self-heal.static-pods",
        slot: Slot::Switch(|c| &mut c.pods.self_heal.static_pods),
        help: "Whether pods from files on this node are healed too.",
    },
    Key {
        path: "pods.self-heal.failures",
        slot: Slot::Number(|c| &mut c.pods.self_heal.failures, 1, 100),
        help: "After so many failed starts within the window a pod is restarted. Time in `CrashLoopBackOff` counts as starts that fail at that rate.",
    },
    Key {
        path: "pods.self-heal.window",
        slot: Slot::Span(|c| &mut c.pods.self_heal.window, Duration::from_secs(1), DAY),
        help: "The time in which failed starts are counted; a pod without any for as long is well again.",
    },
    Key {
        path: "pods.self-heal.broken-for",
        slot: Slot::Span(|c| &mut c.pods.self_heal.broken_for, Duration::from_secs(1), DAY),
        help: "How long a pod may be without its network, its volumes or its sandbox before it is restarted.",
    },
    Key {
        path: "pods.self-heal.max-restarts",
        slot: Slot::Number(|c| &mut c.pods.self_heal.max_restarts, 1, 100),
        help: "So many restarts are tried, first of the containers, then of the whole pod; then it is left alone.",
    },
    Key {
        path: "pods.self-heal.back-off",
        slot: Slot::Span(|c| &mut c.pods.self_heal.back_off, Duration::from_secs(1), DAY),
        help: "The time between two restarts of a pod; doubled each time.",
    },
    Key {
        path: "mirror.schedule",
        slot: Slot::OptionalText(|c| &mut c.mirror.schedule, "0 2 * * *"),
        help: "When the mirror runs by itself, as a line of cron in UTC; without it, only `edge mirror sync` does. A run that was missed is made up for.",
    },
    Key {
        path: "mirror.jitter",
        slot: Slot::Span(|c| &mut c.mirror.jitter, Duration::ZERO, Duration::from_secs(24 * 60 * 60)),
        help: "Up to how much later than its schedule a run begins, so that a fleet does not come at once.",
    },
    Key {
        path: "mirror.windows",
        slot: Slot::Texts(|c| &mut c.mirror.windows),
        help: "Hours of the day, in UTC, within which scheduled runs may fetch, such as `22:00-06:00`; empty for always.",
    },
    Key {
        path: "mirror.platforms",
        slot: Slot::Texts(|c| &mut c.mirror.platforms),
        help: "The platforms whose images are fetched, such as `linux/arm64`; empty for this machine's own.",
    },
    Key {
        path: "mirror.bandwidth-limit",
        slot: Slot::OptionalRate(|c| &mut c.mirror.bandwidth_limit, "2MiB/s"),
        help: "What all transfers of the mirror together may take.",
    },
    Key {
        path: "mirror.parallel",
        slot: Slot::Number(|c| &mut c.mirror.parallel, 1, 64),
        help: "Transfers of the mirror at the same time.",
    },
    Key {
        path: "mirror.proxy",
        slot: Slot::OptionalText(|c| &mut c.mirror.proxy, "http://proxy.example.com:3128"),
        help: "The mirror's own proxy to other machines, in place of registry.proxy.",
    },
    Key {
        path: "mirror.no-proxy",
        slot: Slot::OptionalText(|c| &mut c.mirror.no_proxy, "10.0.0.0/8,.example.com"),
        help: "Hosts, domains and networks that the mirror asks without a proxy, in place of registry.no-proxy.",
    },
    Key {
        path: "mirror.docker-config",
        slot: Slot::OptionalPath(|c| &mut c.mirror.docker_config, "/etc/edge/docker.json"),
        help: "The mirror's own credentials for upstreams and credential helpers, in place of registry.docker-config; mode 0600.",
    },
    Key {
        path: "mirror.authorities",
        slot: Slot::Paths(|c| &mut c.mirror.authorities),
        help: "The mirror's own PEM files of authorities that upstreams may have, in place of registry.authorities.",
    },
    Key {
        path: "mirror.images",
        slot: Slot::Rows(&Rows(|c: &mut Config| &mut c.mirror.images)),
        help: "Images to mirror: `repository`, `tags = { exact, glob, regex, semver, latest }`, `digests`, `platforms`, `insecure`, `cosign-key`.",
    },
    Key {
        path: "mirror.charts",
        slot: Slot::Rows(&Rows(|c: &mut Config| &mut c.mirror.charts)),
        help: "Charts to mirror: `repository` (https:// or oci://), `name`, `versions`, `latest`, `images`, `dependencies`, `path`, `insecure`.",
    },
    Key {
        path: "mirror.manifests",
        slot: Slot::Rows(&Rows(|c: &mut Config| &mut c.mirror.manifests)),
        help: "Kubernetes YAML whose images are mirrored: `path` or `url`, `custom` (where custom resources name images), `insecure`.",
    },
    Key {
        path: "mirror.git",
        slot: Slot::Rows(&Rows(|c: &mut Config| &mut c.mirror.git)),
        help: "Git repositories to mirror: `url`, `name`, `branches`, `tags`, `insecure`; served by the registry's listener as `/git/NAME.git`.",
    },
    Key {
        path: "mirror.git-size-limit",
        slot: Slot::Size(|c| &mut c.mirror.git_size_limit, 1 << 20, 1 << 40),
        help: "The most that one git repository may take here.",
    },
    Key {
        path: "mirror.cluster.images",
        slot: Slot::Switch(|c| &mut c.mirror.cluster_images),
        help: "Whether every image of this node's pods is mirrored, with their pull secrets.",
    },
    Key {
        path: "mirror.kubernetes.version",
        slot: Slot::OptionalText(|c| &mut c.mirror.kubernetes_version, "1.36.3"),
        help: "The version of Kubernetes whose own images are mirrored.",
    },
    Key {
        path: "mirror.kubernetes.images",
        slot: Slot::Texts(|c| &mut c.mirror.kubernetes_images),
        help: "Which of Kubernetes' own images.",
    },
    Key {
        path: "bundle.gateway",
        slot: Slot::OptionalText(|c| &mut c.bundle.gateway, "ship-7"),
        help: "The name of this gateway, for bundles that are made for it, and in its receipts.",
    },
    Key {
        path: "bundle.fleet",
        slot: Slot::OptionalText(|c| &mut c.bundle.fleet, "north"),
        help: "The fleet that this gateway belongs to, for bundles that are made for it.",
    },
    Key {
        path: "bundle.auto-import",
        slot: Slot::Switch(|c| &mut c.bundle.auto_import),
        help: "Whether a stick with a valid bundle is imported when it is plugged in.",
    },
    Key {
        path: "bundle.media-dirs",
        slot: Slot::Paths(|c| &mut c.bundle.media_dirs),
        help: "Where sticks are mounted; looked at for bundles. A stick that nobody mounts is mounted by edge.",
    },
    Key {
        path: "system.reboot",
        slot: Slot::Either(|c| &mut c.system.reboot_after_import, ["manual", "after-import"]),
        help: "When the appliance starts a system that a bundle brought: when somebody restarts it, or at once after the import.",
    },
    Key {
        path: "system.stream",
        slot: Slot::OptionalText(|c| &mut c.system.stream, "main"),
        help: "The stream whose bundles may bring systems for the appliance; unset, that of the first one that came.",
    },
    Key {
        path: "node.containerd",
        slot: Slot::Switch(|c| &mut c.node.containerd),
        help: "Whether the containerd in the snap runs. Only the snap's node flavour has one.",
    },
    Key {
        path: "node.kubelet",
        slot: Slot::Switch(|c| &mut c.node.kubelet),
        help: "Whether the kubelet in the snap runs. Only the snap's node flavour has one.",
    },
];
