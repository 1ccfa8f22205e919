package main

import (
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	k8syaml "sigs.k8s.io/yaml"
)

const kubernetesDir = "deploy/kubernetes"

// manifests are all objects of deploy/kubernetes, by kind and name.
type manifests struct {
	namespaces map[string]*corev1.Namespace
	accounts   map[string]*corev1.ServiceAccount
	configs    map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	services   map[string]*corev1.Service
	budgets    map[string]*policyv1.PodDisruptionBudget
	workloads  map[string]*workload
}

// workload is a Deployment or a StatefulSet.
type workload struct {
	namespace string
	replicas  int32
	selector  *metav1.LabelSelector
	pod       corev1.PodTemplateSpec
	stateful  *appsv1.StatefulSet // nil for a Deployment
}

func (w *workload) container() *corev1.Container { return &w.pod.Spec.Containers[0] }

// loadManifests reads what kustomization.yaml lists. A field that Kubernetes' types do not have is an error.
func loadManifests(t *testing.T) manifests {
	t.Helper()
	m := manifests{
		map[string]*corev1.Namespace{}, map[string]*corev1.ServiceAccount{}, map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{},
		map[string]*corev1.Service{}, map[string]*policyv1.PodDisruptionBudget{}, map[string]*workload{},
	}
	raw, err := os.ReadFile(filepath.Join(kubernetesDir, "kustomization.yaml"))
	require.NoError(t, err)
	var k struct{ Resources []string }
	require.NoError(t, yaml.Unmarshal(raw, &k))
	files, err := filepath.Glob(filepath.Join(kubernetesDir, "*.yaml"))
	require.NoError(t, err)
	require.Len(t, k.Resources, len(files)-1, "kustomization.yaml lists every other file")
	for _, file := range k.Resources {
		raw, err := os.ReadFile(filepath.Join(kubernetesDir, file))
		require.NoError(t, err)
		for d := yaml.NewDecoder(strings.NewReader(string(raw))); ; {
			var doc any
			if err := d.Decode(&doc); errors.Is(err, io.EOF) {
				break
			} else {
				require.NoError(t, err, file)
			}
			text, err := yaml.Marshal(doc)
			require.NoError(t, err)
			m.add(t, file, text)
		}
	}
	return m
}

func (m *manifests) add(t *testing.T, file string, text []byte) {
	t.Helper()
	var head metav1.TypeMeta
	require.NoError(t, k8syaml.Unmarshal(text, &head), file)
	switch head.APIVersion + " " + head.Kind {
	case "v1 Namespace":
		put(t, m.namespaces, text, &corev1.Namespace{})
	case "v1 ServiceAccount":
		put(t, m.accounts, text, &corev1.ServiceAccount{})
	case "v1 ConfigMap":
		put(t, m.configs, text, &corev1.ConfigMap{})
	case "v1 Secret":
		put(t, m.secrets, text, &corev1.Secret{})
	case "v1 Service":
		put(t, m.services, text, &corev1.Service{})
	case "policy/v1 PodDisruptionBudget":
		put(t, m.budgets, text, &policyv1.PodDisruptionBudget{})
	case "apps/v1 Deployment":
		list := map[string]*appsv1.Deployment{}
		d := &appsv1.Deployment{}
		put(t, list, text, d)
		m.workloads[d.Name] = &workload{namespace: d.Namespace, replicas: *d.Spec.Replicas, selector: d.Spec.Selector, pod: d.Spec.Template}
	case "apps/v1 StatefulSet":
		list := map[string]*appsv1.StatefulSet{}
		s := &appsv1.StatefulSet{}
		put(t, list, text, s)
		m.workloads[s.Name] = &workload{
			namespace: s.Namespace, replicas: *s.Spec.Replicas, selector: s.Spec.Selector, pod: s.Spec.Template, stateful: s,
		}
	default:
		require.Fail(t, "unexpected object", "%s: %s %s", file, head.APIVersion, head.Kind)
	}
}

func put[T metav1.Object](t *testing.T, into map[string]T, text []byte, object T) {
	t.Helper()
	require.NoError(t, k8syaml.UnmarshalStrict(text, object), "%s", text)
	require.NotContains(t, into, object.GetName(), "twice")
	into[object.GetName()] = object
}

// environment is what the container gets: its own variables that have a value, and those of its ConfigMaps.
func (m *manifests) environment(t *testing.T, c *corev1.Container) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, from := range c.EnvFrom {
		require.NotNil(t, from.ConfigMapRef)
		require.Contains(t, m.configs, from.ConfigMapRef.Name)
		maps.Copy(out, m.configs[from.ConfigMapRef.Name].Data)
	}
	for _, v := range c.Env {
		out[v.Name] = v.Value
	}
	return out
}

var inParentheses = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// TestDeployKubernetesCalls: every stage is called with flags that exist, under the name of its pod, doubled.
func TestDeployKubernetesCalls(t *testing.T) {
	m := loadManifests(t)
	count := map[string]int32{}
	for name, w := range m.workloads {
		c, env := w.container(), m.environment(t, w.container())
		require.Len(t, w.pod.Spec.Containers, 1, name)
		for _, a := range c.Args { // $(X) is filled in from the container's own variables only
			for _, v := range inParentheses.FindAllStringSubmatch(a, -1) {
				require.True(t, slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == v[1] && e.ValueFrom != nil }), "%s: %s", name, a)
			}
		}
		set, err := checkCall(c.Args, env)
		require.NoError(t, err, name)
		require.Equal(t, "$(POD_NAME)", set.Lookup("instance").Value.String())
		require.Equal(t, "$(POD_IP):"+port(t, env["SLUICE_HTTP_LISTEN"]), set.Lookup("http.advertise").Value.String())
		stage := c.Args[0]
		require.Equal(t, stage, w.pod.Labels["app.kubernetes.io/component"])
		zone := ""
		if stage == "consumer" {
			zone = set.Lookup("consumer.zone").Value.String()
			require.Equal(t, zone, w.pod.Labels["sluice/zone"])
			require.Equal(t, "sluice-consumer-"+zone, name)
			term := w.pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0]
			require.Equal(t, corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone-" + zone}}, term)
			require.NotNil(t, w.stateful, "the name of a consumer must outlive its pod")
			require.Equal(t, appsv1.ParallelPodManagement, w.stateful.Spec.PodManagementPolicy)
			require.Equal(t, appsv1.OnDeleteStatefulSetStrategyType, w.stateful.Spec.UpdateStrategy.Type, "applying must not restart both zones at once")
		}
		count[stage+zone] += w.replicas
	}
	require.Equal(t, map[string]int32{"producer": 2, "consumera": 2, "consumerb": 2, "compactor": 2, "reader": 2}, count)
}

// TestDeployKubernetesPods: ports, probes, files, rights and memory of every pod.
func TestDeployKubernetesPods(t *testing.T) {
	m := loadManifests(t)
	for name, w := range m.workloads {
		t.Run(name, func(t *testing.T) {
			c, env := w.container(), m.environment(t, w.container())
			require.Len(t, c.Ports, 1)
			require.Equal(t, port(t, env["SLUICE_HTTP_LISTEN"]), strconv.Itoa(int(c.Ports[0].ContainerPort)))
			require.Equal(t, w.pod.Annotations["prometheus.io/port"], port(t, env["SLUICE_HTTP_LISTEN"]))
			for path, probe := range map[string]*corev1.Probe{"/ready": c.ReadinessProbe, "/-/healthy": c.LivenessProbe} {
				require.Equal(t, path, probe.HTTPGet.Path)
				require.Equal(t, c.Ports[0].Name, probe.HTTPGet.Port.StrVal)
				require.True(t, served(path))
			}
			m.checkFiles(t, w, env)

			spec := w.pod.Spec
			require.Contains(t, m.accounts, spec.ServiceAccountName)
			require.True(t, *spec.SecurityContext.RunAsNonRoot)
			require.NotZero(t, *spec.SecurityContext.RunAsUser)
			require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
			require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)

			pause := int64(0)
			if c.Lifecycle != nil {
				pause = c.Lifecycle.PreStop.Sleep.Seconds
			}
			// Ten seconds are what the server gives to requests under way.
			require.Greater(t, *spec.TerminationGracePeriodSeconds, pause+10+20)
			limit := c.Resources.Limits.Memory().Value()
			require.Equal(t, limit, c.Resources.Requests.Memory().Value(), "memory that is not promised is taken away under load")
			mib, err := strconv.ParseInt(strings.TrimSuffix(env["GOMEMLIMIT"], "MiB"), 10, 64)
			require.NoError(t, err)
			require.Less(t, mib<<20, limit*9/10)
			require.NotEmpty(t, spec.TopologySpreadConstraints)
			for _, s := range spec.TopologySpreadConstraints {
				require.True(t, matches(t, s.LabelSelector, w), "spreads others than itself")
			}
		})
	}
}

// checkFiles: each mount has a volume, each volume a source, and the files that the flags name are in one.
func (m *manifests) checkFiles(t *testing.T, w *workload, env map[string]string) {
	t.Helper()
	volumes := map[string]corev1.Volume{}
	for _, v := range w.pod.Spec.Volumes {
		volumes[v.Name] = v
	}
	files, writable := map[string]bool{}, map[string]bool{}
	for _, mount := range w.container().VolumeMounts {
		v, ok := volumes[mount.Name]
		require.True(t, ok, "volume %s", mount.Name)
		delete(volumes, mount.Name)
		switch {
		case v.Secret != nil:
			require.Contains(t, m.secrets, v.Secret.SecretName)
			for key := range m.secrets[v.Secret.SecretName].StringData {
				files[filepath.Join(mount.MountPath, key)] = true
			}
		case v.ConfigMap != nil:
			require.Contains(t, m.configs, v.ConfigMap.Name)
			for key := range m.configs[v.ConfigMap.Name].Data {
				files[filepath.Join(mount.MountPath, key)] = true
			}
		default:
			require.NotNil(t, v.EmptyDir, mount.Name)
			writable[mount.MountPath] = true
		}
	}
	require.Empty(t, volumes, "volumes that are not mounted")
	require.Contains(t, files, env["SLUICE_OBJSTORE_CONFIG_FILE"])
	require.Contains(t, files, env["SLUICE_LIMITS_FILE"])
	require.Contains(t, writable, env["SLUICE_DATA_DIR"])
}

func matches(t *testing.T, selector *metav1.LabelSelector, w *workload) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	require.False(t, s.Empty())
	return s.Matches(labels.Set(w.pod.Labels))
}

// TestDeployKubernetesSelectors: whatever selects pods selects those it means, and everything is in the namespace.
func TestDeployKubernetesSelectors(t *testing.T) {
	m := loadManifests(t)
	selected := func(selector map[string]string) (out []string) {
		for name, w := range m.workloads {
			if matches(t, &metav1.LabelSelector{MatchLabels: selector}, w) {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	for name, w := range m.workloads {
		require.Contains(t, m.namespaces, w.namespace, name)
		require.Equal(t, []string{name}, selected(w.selector.MatchLabels), "%s selects its own pods only", name)
		if w.stateful != nil {
			service := m.services[w.stateful.Spec.ServiceName]
			require.NotNil(t, service, name)
			require.Equal(t, corev1.ClusterIPNone, service.Spec.ClusterIP)
		}
	}
	for name, want := range map[string][]string{
		"sluice-write": {"sluice-producer"}, "sluice-read": {"sluice-reader"},
		"sluice-consumer-a": {"sluice-consumer-a"}, "sluice-consumer-b": {"sluice-consumer-b"},
	} {
		s := m.services[name]
		require.NotNil(t, s, name)
		require.Equal(t, want, selected(s.Spec.Selector), name)
		for _, p := range s.Spec.Ports {
			require.Equal(t, m.workloads[want[0]].container().Ports[0].Name, p.TargetPort.StrVal)
		}
	}
	require.Len(t, m.services, 4)

	guarded := map[string]string{}
	for name, b := range m.budgets {
		require.Equal(t, 1, b.Spec.MaxUnavailable.IntValue(), name)
		for _, w := range selected(b.Spec.Selector.MatchLabels) {
			require.Empty(t, guarded[w], "%s has two budgets, and then nothing can be evicted", w)
			guarded[w] = name
		}
	}
	require.Len(t, guarded, len(m.workloads), "every workload has a budget")
	require.Equal(t, guarded["sluice-consumer-a"], guarded["sluice-consumer-b"], "one budget over both zones")

	for _, list := range [][]string{
		namespacesOf(m.accounts), namespacesOf(m.configs), namespacesOf(m.secrets), namespacesOf(m.services), namespacesOf(m.budgets),
	} {
		require.NotEmpty(t, list)
		for _, namespace := range list {
			require.Contains(t, m.namespaces, namespace)
		}
	}
}

func namespacesOf[T metav1.Object](in map[string]T) (out []string) {
	for _, o := range in {
		out = append(out, o.GetNamespace())
	}
	return out
}

// TestDeployKubernetesConfig: the files in ConfigMaps and Secrets are understood, and the brokers are addresses.
func TestDeployKubernetesConfig(t *testing.T) {
	m := loadManifests(t)
	openBucketConfig(t, []byte(m.secrets["sluice-objstore"].StringData["objstore.yaml"]))
	file := filepath.Join(t.TempDir(), "limits.yaml")
	require.NoError(t, os.WriteFile(file, []byte(m.configs["sluice-limits"].Data["limits.yaml"]), 0o600))
	openLimits(t, file)
	for _, b := range strings.Split(m.configs["sluice"].Data["SLUICE_KAFKA_BROKERS"], ",") {
		_, _, err := net.SplitHostPort(b)
		require.NoError(t, err)
	}
}

// TestKubernetesDecodingIsStrict: a field that is not Kubernetes' is found.
func TestKubernetesDecodingIsStrict(t *testing.T) {
	require.ErrorContains(t, k8syaml.UnmarshalStrict([]byte("apiVersion: v1\nkind: Service\nspec:\n  selectors: {a: b}\n"), &corev1.Service{}), "selectors")
}
