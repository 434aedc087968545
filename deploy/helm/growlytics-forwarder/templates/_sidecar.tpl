{{/*
What an app's chart includes. Each takes the app's root context, with the values under growlytics-forwarder:

  growlytics-forwarder.container    an item of spec.template.spec.initContainers
  growlytics-forwarder.volumes      items of spec.template.spec.volumes
  growlytics-forwarder.labels       labels of the pod, by which the PodMonitor finds it
  growlytics-forwarder.podMonitor   a manifest of its own
  growlytics-forwarder.prometheusRule, growlytics-forwarder.dashboard   the same: _monitoring.tpl
*/}}

{{- define "growlytics-forwarder.labels" -}}
growlytics-forwarder: "true"
{{- end }}

{{/* A native sidecar (Kubernetes 1.29 or newer): an init container that goes on, and ends after the app. */}}
{{- define "growlytics-forwarder.container" -}}
{{- $values := index .Values "growlytics-forwarder" -}}
{{- $version := (index .Subcharts "growlytics-forwarder").Chart.AppVersion -}}
- name: growlytics-forwarder
  image: {{ printf "%s:%s" $values.image.repository ($values.image.tag | default $version) | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  restartPolicy: Always
  args: ["run"]
  env:
    - name: FORWARDER_GROWLYTICS__API_KEY_FILE
      value: /run/secrets/growlytics/api_key
    - name: FORWARDER_INTAKE__UNIX_SOCKET
      value: /run/growlytics-forwarder/intake.sock
    - name: FORWARDER_INTAKE__UNIX_SOCKET_MODE
      value: "0666"
    - name: FORWARDER_ADMIN__HTTP
      value: 0.0.0.0:9920
    - name: FORWARDER_BUFFER__MAX_EVENTS
      value: {{ $values.buffer.maxEvents | int64 | quote }}
    - name: FORWARDER_BUFFER__MAX_BYTES
      value: {{ $values.buffer.maxMiB | int64 }} MiB
    - name: FORWARDER_DEAD_LETTERS__MAX_EVENTS
      value: {{ $values.deadLetters.maxEvents | int64 | quote }}
    - name: FORWARDER_DEAD_LETTERS__MAX_BYTES
      value: {{ $values.deadLetters.maxMiB | int64 }} MiB
    - name: FORWARDER_SHUTDOWN__DRAIN_SECONDS
      value: {{ $values.shutdown.drainSeconds | quote }}
    - name: FORWARDER_LOG__FORMAT
      value: json
    {{- range $name, $value := $values.env }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
  ports:
    - name: forwarder-admin
      containerPort: 9920
  startupProbe:
    httpGet:
      path: /readyz
      port: forwarder-admin
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: forwarder-admin
    periodSeconds: 10
  livenessProbe:
    httpGet:
      path: /livez
      port: forwarder-admin
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: ["ALL"]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: growlytics-forwarder-key
      mountPath: /run/secrets/growlytics
      readOnly: true
    - name: growlytics-forwarder-socket
      mountPath: /run/growlytics-forwarder
    - name: growlytics-forwarder-buffer
      mountPath: /var/lib/growlytics-forwarder
{{- end }}

{{/*
The buffer's limit, in MiB: three files (in use, damaged, salvaged before) of 3 x the bytes and 2 KiB for each event, and
spareMiB for the rest; deploy/README.md has the sum. Beyond it the whole pod is evicted.
*/}}
{{- define "growlytics-forwarder.bufferMiB" -}}
{{- $values := index .Values "growlytics-forwarder" -}}
{{- $mib := add ($values.buffer.maxMiB | int64) ($values.deadLetters.maxMiB | int64) -}}
{{- $events := add ($values.buffer.maxEvents | int64) ($values.deadLetters.maxEvents | int64) -}}
{{- add (mul 9 $mib) (div (add (mul 6 $events) 1023) 1024) ($values.spareMiB | int64) -}}
{{- end }}

{{- define "growlytics-forwarder.volumes" -}}
{{- $values := index .Values "growlytics-forwarder" -}}
- name: growlytics-forwarder-key
  secret:
    secretName: {{ $values.apiKeySecret.name }}
    items:
      - key: {{ $values.apiKeySecret.key }}
        path: api_key
- name: growlytics-forwarder-socket
  emptyDir:
    sizeLimit: 1Mi
- name: growlytics-forwarder-buffer
  emptyDir:
    sizeLimit: {{ include "growlytics-forwarder.bufferMiB" . }}Mi
{{- end }}

{{- define "growlytics-forwarder.podMonitor" -}}
{{- $values := index .Values "growlytics-forwarder" -}}
{{- if $values.podMonitor.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ .Release.Name }}-growlytics-forwarder
spec:
  selector:
    matchLabels:
      app.kubernetes.io/instance: {{ .Release.Name }}
      {{- include "growlytics-forwarder.labels" . | nindent 6 }}
  podMetricsEndpoints:
    - port: forwarder-admin
      path: /metrics
      interval: {{ $values.podMonitor.interval }}
{{- end }}
{{- end }}
