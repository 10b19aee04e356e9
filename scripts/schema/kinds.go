package main

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"
)

// A kind that has a protobuf form. APIVersion "*" stands for every group and version.
type kind struct {
	apiVersion, name string
	plural           string // empty where no resource is served under the kind's name
	namespaced       bool
	goType           reflect.Type
}

// everywhere are the kinds that meta/v1 registers in every group and version. WatchEvent, another, is left
// out: it has no envelope and no kind of its own.
var everywhere = map[string]bool{
	"ListOptions": true, "GetOptions": true, "DeleteOptions": true,
	"CreateOptions": true, "UpdateOptions": true, "PatchOptions": true,
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme,
		metricsv1beta1.AddToScheme, metav1.AddMetaToScheme,
	} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// kinds lists every registered kind that can be written as protobuf, sorted.
func kinds() []kind {
	s := newScheme()
	resources := servedKinds(s)
	seen := map[[2]string]bool{}
	var out []kind
	for gvk, t := range s.AllKnownTypes() {
		k := kind{apiVersion: gvk.GroupVersion().String(), name: gvk.Kind, goType: t}
		if gvk.Version == runtime.APIVersionInternal || gvk.Kind == "WatchEvent" || !isMessage(t) {
			continue
		}
		if everywhere[gvk.Kind] {
			k.apiVersion = "*"
		}
		if seen[[2]string{k.apiVersion, k.name}] {
			continue
		}
		seen[[2]string{k.apiVersion, k.name}] = true
		if r, ok := resources[gvk]; ok {
			k.plural, k.namespaced = r.plural, r.namespaced
		}
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].apiVersion+" "+out[i].name < out[j].apiVersion+" "+out[j].name
	})
	return out
}

func isMessage(t reflect.Type) bool {
	_, ok := reflect.New(t).Interface().(interface{ Marshal() ([]byte, error) })
	return ok
}

type served struct {
	plural     string
	namespaced bool
}

// servedKinds reads plural and scope off the typed clients: CoreV1().Pods(namespace) is the resource
// pods of core/v1, namespaced; its Get returns the kind.
func servedKinds(s *runtime.Scheme) map[schema.GroupVersionKind]served {
	out := map[schema.GroupVersionKind]served{}
	for _, set := range []reflect.Type{
		reflect.TypeFor[kubernetes.Interface](), reflect.TypeFor[apiextensions.Interface](),
		reflect.TypeFor[aggregator.Interface](), reflect.TypeFor[metrics.Interface](),
	} {
		for i := range set.NumMethod() {
			group := set.Method(i)
			if group.Name == "Discovery" {
				continue
			}
			client := group.Type.Out(0)
			for j := range client.NumMethod() {
				getter := client.Method(j)
				if getter.Name == "RESTClient" {
					continue
				}
				get, ok := getter.Type.Out(0).MethodByName("Get")
				if !ok {
					continue
				}
				object := reflect.New(get.Type.Out(0).Elem()).Interface().(runtime.Object)
				kinds, _, err := s.ObjectKinds(object)
				if err != nil {
					continue // a group version that is not in the scheme
				}
				for _, gvk := range kinds {
					plural := strings.ToLower(getter.Name)
					if gvk.Group == "metrics.k8s.io" {
						plural = strings.TrimSuffix(plural, "metricses")
						plural += "s"
					}
					out[gvk] = served{plural, getter.Type.NumIn() == 1}
				}
			}
		}
	}
	if len(out) < 50 {
		panic(fmt.Sprintf("only %d resources found in the typed clients", len(out)))
	}
	return out
}
