// The network plugin that tests run as a pod. It is built in its own tree (scripts/parts): this names its version.
module flannel

go 1.26.0

require github.com/flannel-io/flannel v0.28.10
