package main

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A filler sets the fields of an object: all of them, or some drawn from a fixed seed.
type filler struct {
	sparse *rand.Rand // nil: everything is set
	opaque bool       // whether types that the table marks X are set too
	n      int64
}

const maxDepth = 12

// draw says whether a field is set, which everything is where nothing is drawn.
func (f *filler) draw(chance float64) bool {
	return f.sparse == nil || f.sparse.Float64() < chance
}

func (f *filler) fill(v reflect.Value, depth int) {
	f.n++
	if set, ok := f.special(v); ok {
		if set != nil {
			v.Set(reflect.ValueOf(set).Elem())
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if f.draw(0.5) {
			v.SetString(f.text())
		}
	case reflect.Bool:
		v.SetBool(f.draw(0.5))
	case reflect.Int32, reflect.Int64:
		f.integer(v)
	case reflect.Float64:
		if f.draw(0.5) {
			v.SetFloat(float64(f.n) + []float64{0, 0.5, -0.125}[f.n%3])
		}
	case reflect.Pointer:
		if depth < maxDepth && f.draw(0.4) && f.allowed(v.Type().Elem()) {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), depth+1)
		}
	case reflect.Slice:
		f.slice(v, depth)
	case reflect.Map:
		f.table(v, depth)
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.Tag.Get("protobuf") != "" && field.IsExported() {
				f.fill(v.Field(i), depth+1)
			}
		}
	default:
		panic(fmt.Sprintf("%s cannot be filled", v.Type()))
	}
}

func (f *filler) allowed(t reflect.Type) bool { return f.opaque || special[t] != 'X' }

func (f *filler) text() string {
	if f.n%13 == 0 {
		return fmt.Sprintf("s%d \"<ü&\\ \u2028\U0001f6a2\n>", f.n)
	}
	return fmt.Sprintf("s%d", f.n)
}

func (f *filler) integer(v reflect.Value) {
	if !f.draw(0.5) {
		return
	}
	n := f.n
	switch {
	case f.n%7 == 0:
		n = -n
	case f.n%5 == 0 && v.Kind() == reflect.Int64:
		n += 1 << 53
	}
	v.SetInt(n)
}

func (f *filler) slice(v reflect.Value, depth int) {
	if depth >= maxDepth || !f.draw(0.4) || !f.allowed(v.Type().Elem()) {
		return
	}
	if isBytes(v.Type()) {
		v.SetBytes([]byte{byte(f.n), 0xff, 0, 7}[:f.n%5])
		return
	}
	n := 1
	if f.sparse != nil || v.Type().Elem().Kind() != reflect.Struct {
		n = int(f.n % 3)
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		f.fill(v.Index(i), depth+1)
	}
}

func (f *filler) table(v reflect.Value, depth int) {
	if depth >= maxDepth || !f.draw(0.4) || !f.allowed(v.Type().Elem()) {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for range f.n%2 + 1 {
		key := reflect.New(v.Type().Key()).Elem()
		f.n++
		key.SetString(f.text())
		value := reflect.New(v.Type().Elem()).Elem()
		f.fill(value, depth+1)
		v.SetMapIndex(key, value)
	}
}

// special gives a pointer to a value of a type whose JSON is its own; nil leaves it zero.
func (f *filler) special(v reflect.Value) (any, bool) {
	code, ok := special[v.Type()]
	if !ok {
		return nil, false
	}
	if !f.draw(0.6) && code != 'X' {
		return nil, true
	}
	at := time.Unix(1_700_000_000+f.n*86_399, f.n*123_457_001%1_000_000_000)
	switch code {
	case 'T':
		return &metav1.Time{Time: at}, true
	case 'U':
		return &metav1.MicroTime{Time: at}, true
	case 'D':
		return &metav1.Duration{Duration: time.Duration(f.n) * 1_234_567_890}, true
	case 'Q':
		q := resource.MustParse([]string{"100m", "1Gi", "0", "1536Ki", "3", "2500M", "12e6"}[f.n%7])
		return &q, true
	case 'I':
		if f.n%2 == 0 {
			return &intstr.IntOrString{Type: intstr.String, StrVal: f.text()}, true
		}
		return &intstr.IntOrString{IntVal: int32(f.n)}, true
	case 'R':
		return &runtime.RawExtension{Raw: []byte(fmt.Sprintf(`{"a":[1,null,"x"],"b":{"n":%d}}`, f.n))}, true
	case 'F':
		return metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{".":{},"f:a":{}}}}`), true
	}
	return nil, true
}
