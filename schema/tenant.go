package schema

import (
	"fmt"
	"net/http"
)

// Tenant is a checked tenant ID: safe as one path segment of a bucket key and as a Kafka key. Make one with ParseTenant.
type Tenant string

// Anonymous is the tenant of requests that name none while tenancy is optional.
const Anonymous Tenant = "anonymous"

// TenantHeader is the request header that names the tenant, as in Cortex and Mimir.
const TenantHeader = "X-Scope-OrgID"

// MaxTenantLength is the longest tenant ID accepted, in bytes.
const MaxTenantLength = 150

// ParseTenant checks s by the rules Mimir's users know: 1 to 150 characters out of letters, digits and !-_.*'(), and
// neither "." nor "..", so that no path can be built from a tenant. Names that start with "__" are reserved.
func ParseTenant(s string) (Tenant, error) {
	bad := func(format string, args ...any) (Tenant, error) {
		return "", NewError(ErrTenantInvalid, http.StatusBadRequest, format, args...)
	}
	switch {
	case s == "":
		return "", NewError(ErrNoTenant, http.StatusUnauthorized, "no tenant: the %s header is missing or empty", TenantHeader)
	case len(s) > MaxTenantLength:
		return bad("tenant ID of %d bytes is longer than the limit of %d", len(s), MaxTenantLength)
	case s == "." || s == "..":
		return bad("tenant ID %q is not allowed", s)
	case len(s) >= 2 && s[:2] == "__":
		return bad("tenant ID %q is reserved: it starts with two underscores", s)
	}
	for i := 0; i < len(s); i++ {
		if !tenantChar(s[i]) {
			return bad("tenant ID %s has an unsupported character %q at byte %d", fmt.Sprintf("%.60q", s), s[i], i)
		}
	}
	return Tenant(s), nil
}

func tenantChar(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '!', '-', '_', '.', '*', '\'', '(', ')':
		return true
	}
	return false
}
