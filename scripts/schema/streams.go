package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
)

// streamFixtures are a list and a watch of pods in both encodings, written as apiserver writes them, each with
// what is in it: the items, or the events, as a JSON array.
func streamFixtures() ([][][]byte, error) {
	s := newScheme()
	var out [][][]byte
	for name, mediaType := range map[string]string{
		"json": runtime.ContentTypeJSON, "protobuf": runtime.ContentTypeProtobuf,
	} {
		codecs := serializer.NewCodecFactory(s, serializer.WithStreamingCollectionEncodingToJSON(),
			serializer.WithStreamingCollectionEncodingToProtobuf())
		info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		if !ok {
			return nil, fmt.Errorf("no serializer for %s", mediaType)
		}
		list, items := pods()
		var body bytes.Buffer
		if err := codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion).Encode(list, &body); err != nil {
			return nil, err
		}
		text, err := json.Marshal(items)
		if err != nil {
			return nil, err
		}
		out = append(out, [][]byte{[]byte("list " + name), body.Bytes(), text})
		record, err := events(codecs, info, items)
		if err != nil {
			return nil, err
		}
		out = append(out, append([][]byte{[]byte("watch " + name)}, record...))
	}
	sortRecords(out)
	return out, nil
}

func pods() (*corev1.PodList, []*corev1.Pod) {
	left := int64(12)
	list := &corev1.PodList{ListMeta: metav1.ListMeta{
		ResourceVersion: "4711", Continue: "next", RemainingItemCount: &left,
	}}
	var items []*corev1.Pod
	for i := range 3 {
		pod := &corev1.Pod{}
		(&filler{sparse: rand.New(rand.NewPCG(3, uint64(i)))}).fill(reflect.ValueOf(pod).Elem(), 0)
		pod = settled(pod)
		list.Items = append(list.Items, *pod)
		pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
		items = append(items, pod)
	}
	return list, items
}

// settled is a pod that both encodings can tell in full: no empty list, no empty bytes.
func settled(pod *corev1.Pod) *corev1.Pod {
	text, err := json.Marshal(pod)
	if err != nil {
		panic(err)
	}
	read := &corev1.Pod{}
	if err := json.Unmarshal(text, read); err != nil {
		panic(err)
	}
	raw, err := read.Marshal()
	if err != nil {
		panic(err)
	}
	out := &corev1.Pod{}
	if err := out.Unmarshal(raw); err != nil {
		panic(err)
	}
	return out
}

func events(codecs serializer.CodecFactory, info runtime.SerializerInfo, items []*corev1.Pod) ([][]byte, error) {
	var body bytes.Buffer
	framer := info.StreamSerializer.Framer.NewFrameWriter(&body)
	objects := codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)
	frames := streaming.NewEncoder(framer, codecs.EncoderForVersion(info.StreamSerializer.Serializer, corev1.SchemeGroupVersion))
	var want []map[string]any
	gone := &metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old"}
	gone.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Status"))
	for _, event := range []watch.Event{
		{Type: watch.Added, Object: items[0]}, {Type: watch.Modified, Object: items[1]},
		{Type: watch.Deleted, Object: items[2]}, {Type: watch.Bookmark, Object: items[0]},
		{Type: watch.Error, Object: gone},
	} {
		raw, err := runtime.Encode(objects, event.Object)
		if err != nil {
			return nil, err
		}
		frame := &metav1.WatchEvent{Type: string(event.Type), Object: runtime.RawExtension{Raw: raw}}
		if err := frames.Encode(frame); err != nil {
			return nil, err
		}
		want = append(want, map[string]any{"type": event.Type, "object": event.Object})
	}
	text, err := json.Marshal(want)
	return [][]byte{body.Bytes(), text}, err
}
