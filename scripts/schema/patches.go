package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sort"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// patchFixtures are objects, strategic merge patches and what strategicpatch makes of them; nothing where it
// refuses the patch. Some are written by hand for a rule each, most are made by mutation.
func patchFixtures() ([][][]byte, error) {
	var out [][][]byte
	for i, c := range byHand {
		object, patch := []byte(`{"apiVersion":"v1","kind":"Pod",`+c[1][1:]), []byte(c[2])
		result, err := strategicpatch.StrategicMergePatch(object, patch, &corev1.Pod{})
		if err != nil {
			result = nil
		}
		out = append(out, [][]byte{[]byte(fmt.Sprintf("hand %02d %s", i, c[0])), object, patch, result})
	}
	for _, k := range []struct {
		gv     schema.GroupVersion
		object any
	}{
		{corev1.SchemeGroupVersion, &corev1.Pod{}}, {corev1.SchemeGroupVersion, &corev1.Node{}},
		{corev1.SchemeGroupVersion, &corev1.Service{}}, {appsv1.SchemeGroupVersion, &appsv1.Deployment{}},
	} {
		name := reflect.TypeOf(k.object).Elem().Name()
		for seed := range uint64(120) {
			record, err := mutated(k.object, k.gv.WithKind(name), seed)
			if err != nil {
				return nil, err
			}
			if record != nil {
				out = append(out, append([][]byte{[]byte(fmt.Sprintf("random %s %d", name, seed))}, record...))
			}
		}
	}
	return out, nil
}

// mutated fills an object, changes it here and there, and lets Go make the patch between the two.
func mutated(of any, gvk schema.GroupVersionKind, seed uint64) ([][]byte, error) {
	random := rand.New(rand.NewPCG(9, seed))
	object := reflect.New(reflect.TypeOf(of).Elem())
	(&filler{sparse: random}).fill(object.Elem(), 4)
	var before, after map[string]any
	for _, into := range []*map[string]any{&before, &after} {
		text, err := json.Marshal(object.Interface())
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return nil, err
		}
	}
	before["apiVersion"], before["kind"] = gvk.GroupVersion().String(), gvk.Kind
	after = mutate(random, after, 0).(map[string]any)
	after["apiVersion"], after["kind"] = before["apiVersion"], before["kind"]
	base, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	now, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(base, now, of)
	if err != nil {
		return nil, nil // lists with one merge key twice
	}
	result, err := strategicpatch.StrategicMergePatch(base, patch, of)
	if err != nil {
		return nil, nil
	}
	return [][]byte{base, patch, result}, nil
}

// mutate drops, changes and reorders. Names of lists' elements stay, so that they are found again.
func mutate(random *rand.Rand, value any, depth int) any {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range sortedKeys(value) {
			switch {
			case depth > 1 && random.Float64() < 0.1:
				delete(value, key)
			case key == "name" || key == "type" || key == "ip" || key == "uid":
			default:
				value[key] = mutate(random, value[key], depth+1)
			}
		}
		return value
	case []any:
		if random.Float64() < 0.4 {
			random.Shuffle(len(value), func(i, j int) { value[i], value[j] = value[j], value[i] })
		}
		if len(value) > 0 && random.Float64() < 0.3 {
			value = slices.Delete(value, 0, 1)
		}
		for i := range value {
			value[i] = mutate(random, value[i], depth+1)
		}
		return value
	case string:
		if random.Float64() < 0.2 {
			return value + "x"
		}
	case float64:
		if random.Float64() < 0.2 {
			return value + 1
		}
	}
	return value
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// byHand: a name, the fields of a pod, a patch.
var byHand = [][3]string{
	{"null deletes", `{"metadata":{"labels":{"a":"1","b":"2"}}}`, `{"metadata":{"labels":{"a":null,"c":null,"d":"4"}}}`},
	{"nulls in what is new", `{"metadata":{}}`, `{"metadata":{"labels":{"a":null,"b":"2"}}}`},
	{"new element goes first", `{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}`, `{"spec":{"containers":[{"name":"c"}]}}`},
	{"element merged", `{"spec":{"containers":[{"name":"a","image":"x"},{"name":"b"}]}}`, `{"spec":{"containers":[{"name":"b","image":"y"}]}}`},
	{"element deleted", `{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}`, `{"spec":{"containers":[{"name":"b","$patch":"delete"}]}}`},
	{"deleted and added again", `{"spec":{"containers":[{"name":"a"},{"name":"b","image":"x"}]}}`, `{"spec":{"containers":[{"name":"b","$patch":"delete"},{"name":"b","tty":true}]}}`},
	{"all deleted", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}`},
	{"list replaced", `{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}`, `{"spec":{"containers":[{"name":"c"},{"$patch":"replace"}]}}`},
	{"list emptied", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"$patch":"replace"}]}}`},
	{"addresses replaced", `{"status":{"conditions":[{"type":"a"},{"type":"a"},{"type":"b"}]}}`, `{"status":{"conditions":[{"type":"b"},{"type":"a"},{"type":"b","status":"x"},{"$patch":"replace"}]}}`},
	{"order", `{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"a"},{"name":"b"}]}}`},
	{"order with one more", `{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"n"},{"name":"a"}],"containers":[{"name":"n"}]}}`},
	{"order beside server's own", `{"spec":{"containers":[{"name":"s1"},{"name":"a"},{"name":"s2"},{"name":"b"},{"name":"s3"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","image":"x"}]}}`},
	{"order and deletion", `{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}],"containers":[{"name":"b","$patch":"delete"}]}}`},
	{"order of what is not there", `{"spec":{}}`, `{"spec":{"$setElementOrder/containers":[{"name":"c"}]}}`},
	{"order of a new list", `{"spec":{}}`, `{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"c"}],"containers":[{"name":"a"},{"name":"c"},{"name":"b","$patch":"delete"}]}}`},
	{"order that the patch breaks", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"b"}],"containers":[{"name":"b"},{"name":"a"}]}}`},
	{"order of an atomic list", `{"spec":{"tolerations":[{"key":"a"}]}}`, `{"spec":{"tolerations":[{"key":"b"}]}}`},
	{"scalars merged", `{"metadata":{"finalizers":["a","b"]}}`, `{"metadata":{"finalizers":["c","a"]}}`},
	{"scalars deleted", `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a","c"]}}`},
	{"scalars deleted from nothing", `{"metadata":{}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}`},
	{"scalars in order", `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$setElementOrder/finalizers":["d","c","a"],"finalizers":["d"],"$deleteFromPrimitiveList/finalizers":["b"]}}`},
	{"retain keys", `{"spec":{"volumes":[{"name":"v","emptyDir":{"medium":"x"}}]}}`, `{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/x"}}]}}`},
	{"retain keys that lack one", `{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}`, `{"spec":{"volumes":[{"name":"v","$retainKeys":["name"],"hostPath":{"path":"/x"}}]}}`},
	{"map replaced", `{"metadata":{"labels":{"a":"1"}}}`, `{"metadata":{"labels":{"$patch":"replace","b":"2"}}}`},
	{"map deleted", `{"metadata":{"labels":{"a":"1"},"name":"x"}}`, `{"metadata":{"labels":{"$patch":"delete"}}}`},
	{"map deleted that is not there", `{"metadata":{}}`, `{"metadata":{"labels":{"$patch":"delete"}}}`},
	{"map merged", `{"metadata":{"labels":{"a":"1"}}}`, `{"metadata":{"labels":{"$patch":"merge","b":"2"}}}`},
	{"list merged", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"name":"a","$patch":"merge"}]}}`},
	{"no merge key", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"image":"a"}]}}`},
	{"delete without merge key", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"$patch":"delete"}]}}`},
	{"objects and scalars", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":["a"]}}`},
	{"another type", `{"metadata":{"labels":{"a":"1"}}}`, `{"metadata":{"labels":["a"]}}`},
	{"directive without a field", `{"metadata":{"finalizers":["a"]}}`, `{"metadata":{"$deleteFromPrimitiveList":["a"]}}`},
	{"kubelet's conditions", `{"metadata":{"uid":"u"},"status":{"conditions":[{"type":"Ready","status":"False","lastProbeTime":null},{"type":"PodScheduled","status":"True"}]}}`,
		`{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"PodReadyToStartContainers"},{"type":"Ready"},{"type":"PodScheduled"}],"conditions":[{"lastProbeTime":null,"status":"True","type":"PodReadyToStartContainers"},{"type":"Ready","status":"True","reason":null}],"phase":"Running","podIPs":[{"ip":"10.0.0.2"}]}}`},
}
