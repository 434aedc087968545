{{/*
The alerts, and the dashboard as a ConfigMap, each where its value says so. The files are links to prometheus/rules.yml and
grafana/dashboard.json, so there is one source of each.
*/}}

{{- define "growlytics-forwarder.prometheusRule" -}}
{{- $values := (index .Values "growlytics-forwarder").prometheusRule -}}
{{- if $values.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ .Release.Name }}-growlytics-forwarder
  {{- with $values.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- $rules := (index .Subcharts "growlytics-forwarder").Files.Get "files/rules.yml" }}
  {{- $rules | replace "https://git.example/growlytics-forwarder" $values.runbooks | nindent 2 }}
{{- end }}
{{- end }}

{{- define "growlytics-forwarder.dashboard" -}}
{{- $values := (index .Values "growlytics-forwarder").dashboard -}}
{{- if $values.enabled -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-growlytics-forwarder-dashboard
  labels:
    {{- toYaml $values.labels | nindent 4 }}
data:
  growlytics-forwarder.json: |
    {{- (index .Subcharts "growlytics-forwarder").Files.Get "files/dashboard.json" | nindent 4 }}
{{- end }}
{{- end }}
