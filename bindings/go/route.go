package blaze

// #include "shim.h"
import "C"

// Route is a name that stands for several models. Requests are sent to it as to a [Model].
type Route struct{ *endpoint }

// CreateRoute makes a route. The keys of its configuration are those of blaze_route_create.
func (e *Engine) CreateRoute(config any) (*Route, error) {
	var id C.blaze_model
	err := e.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_route_create(e.handle, text, &id, failure)
	})
	if err != nil {
		return nil, err
	}
	return &Route{newEndpoint(e, uint64(id))}, nil
}

// Update gives the route another configuration, with the same name. Requests that are under way end as they would have.
func (r *Route) Update(config any) error {
	return r.engine.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_route_update(r.engine.handle, C.blaze_model(r.id), text, failure)
	})
}

// Destroy takes the route out. Its models stay.
func (r *Route) Destroy() error {
	return r.engine.call(func(*C.blaze_error) C.blaze_status {
		return C.blaze_route_destroy(r.engine.handle, C.blaze_model(r.id))
	})
}

// AddTarget adds a target, one object of the route's "targets".
func (r *Route) AddTarget(config any) error {
	return r.engine.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_route_target_add(r.engine.handle, C.blaze_model(r.id), text, failure)
	})
}

// RemoveTarget takes out the target of a model, by the name that it was configured with.
func (r *Route) RemoveTarget(model string) error {
	return r.engine.configure(model, func(text *C.char, _ *C.blaze_error) C.blaze_status {
		return C.blaze_route_target_remove(r.engine.handle, C.blaze_model(r.id), text)
	})
}

// DrainTarget has a target get no more requests, or with drain false requests again.
func (r *Route) DrainTarget(model string, drain bool) error {
	how := C.uint32_t(0)
	if drain {
		how = 1
	}
	return r.engine.configure(model, func(text *C.char, _ *C.blaze_error) C.blaze_status {
		return C.blaze_route_target_drain(r.engine.handle, C.blaze_model(r.id), text, how)
	})
}

// SetTenant makes or changes a tenant: what its requests may take, and its share. The keys are those of blaze_tenant_set.
func (e *Engine) SetTenant(config any) error {
	return e.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_tenant_set(e.handle, text, failure)
	})
}
