{{- define "kalam.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for "-headless" and a pod's number behind it. */}}
{{- define "kalam.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "kalam.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kalam.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kalam.selector" -}}
app.kubernetes.io/name: {{ include "kalam.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kalam.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "kalam.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kalam.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kalam.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* "true" where the nodes share a log. */}}
{{- define "kalam.clustered" -}}
{{- if kindIs "bool" .Values.clustered -}}
{{- if .Values.clustered -}}true{{- end -}}
{{- else -}}
{{- $url := dig "log" "url" "" .Values.config -}}
{{- if or (hasPrefix "nats:" $url) (hasPrefix "tls:" $url) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kalam.grace" -}}
{{- $drain := dig "server" "drain_seconds" 10 .Values.config | float64 | ceil | int -}}
{{- $least := add $drain 6 | int -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- if eq $grace 0 -}}
{{- add $drain 15 -}}
{{- else if lt $grace $least -}}
{{- fail (printf "terminationGracePeriodSeconds: %d: the server may drain for %d s (config.server.drain_seconds + 5): give %d or more" $grace (add $drain 5) $least) -}}
{{- else -}}
{{- $grace -}}
{{- end -}}
{{- end -}}
