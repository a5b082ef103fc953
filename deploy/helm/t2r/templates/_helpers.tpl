{{- define "t2r.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "t2r.selector" -}}
app.kubernetes.io/name: t2r
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "t2r.labels" -}}
{{ include "t2r.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "t2r.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end }}

{{- define "t2r.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "t2r.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end }}

{{- define "t2r.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}{{ default (printf "%s-tls" (include "t2r.name" .)) .Values.tls.secretName }}{{ else }}{{ required "tls.secretName: name the secret, or let certManager.enabled make it" .Values.tls.secretName }}{{ end -}}
{{- end }}

{{- define "t2r.sessionStore" -}}
{{- if and .Values.sessionStore.url .Values.sessionStore.urlSecret.name }}{{ fail "sessionStore: give url or urlSecret.name, not both" }}{{ end -}}
{{- if and .Values.sessionStore.caSecretName (not (or .Values.sessionStore.url .Values.sessionStore.urlSecret.name)) }}{{ fail "sessionStore.caSecretName: there is no session store; give url or urlSecret.name" }}{{ end -}}
{{- if or .Values.sessionStore.url .Values.sessionStore.urlSecret.name }}true{{ end -}}
{{- end }}

{{- define "t2r.adminTls" -}}
{{- if .Values.tls.admin }}{{ if not .Values.tls.enabled }}{{ fail "tls.admin: the admin port takes the gRPC port's certificate; set tls.enabled" }}{{ end }}true{{ end -}}
{{- end }}

{{- define "t2r.kind" -}}
{{ if .Values.sessions.directory.enabled }}StatefulSet{{ else }}Deployment{{ end }}
{{- end }}

{{- define "t2r.appProtocol" -}}
{{ if .Values.tls.enabled }}https{{ else }}kubernetes.io/h2c{{ end }}
{{- end }}

{{- define "t2r.containerSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
