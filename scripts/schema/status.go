package main

import (
	"encoding/json"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// statusFixtures are the Status objects of apimachinery's errors.
func statusFixtures() ([][][]byte, error) {
	core := func(r string) schema.GroupResource { return schema.GroupResource{Resource: r} }
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	leases := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	no := errors.New("no")
	invalid := apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "d", field.ErrorList{
		{Type: field.ErrorTypeInvalid, Field: "spec.x", BadValue: field.OmitValueType{}, Detail: "no"},
	})
	var out [][][]byte
	for name, err := range map[string]*apierrors.StatusError{
		"badRequest":       apierrors.NewBadRequest("no"),
		"unauthorized":     apierrors.NewUnauthorized("Unauthorized"),
		"forbidden":        apierrors.NewForbidden(deployments, "d", no),
		"forbiddenList":    apierrors.NewForbidden(core("pods"), "", no),
		"notFound":         apierrors.NewNotFound(core("pods"), "x"),
		"notFoundGroup":    apierrors.NewNotFound(deployments, "x"),
		"methodNotAllowed": apierrors.NewMethodNotSupported(core("pods"), "deletecollection"),
		"alreadyExists":    apierrors.NewAlreadyExists(core("nodes"), "n"),
		"conflict":         apierrors.NewConflict(leases, "l", errors.New("it changed")),
		"expired":          apierrors.NewResourceExpired("too old"),
		"tooLarge":         apierrors.NewRequestEntityTooLargeError("limit is 3"),
		"invalid":          invalid,
		"tooMany":          apierrors.NewTooManyRequests("slow down", 3),
		"internal":         apierrors.NewInternalError(errors.New("broken")),
		"unavailable":      apierrors.NewServiceUnavailable("gone"),
		"timeout":          apierrors.NewTimeoutError("late", 7),
	} {
		status := err.Status()
		status.Kind, status.APIVersion = "Status", "v1"
		text, err := json.Marshal(status)
		if err != nil {
			return nil, err
		}
		out = append(out, [][]byte{[]byte(name), text})
	}
	sortRecords(out)
	return out, nil
}
