{{- define "playhouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "playhouse.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "playhouse.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "playhouse.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "playhouse.selector" -}}
app.kubernetes.io/name: {{ include "playhouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "playhouse.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "playhouse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* image: repository, tag or digest, and the tag without either. */ -}}
{{- define "playhouse.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "playhouse.serviceAccount" -}}
{{- if .Values.proxy.serviceAccount.create -}}
{{- default (printf "%s-proxy" (include "playhouse.fullname" .)) .Values.proxy.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.proxy.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "playhouse.adminSecret" -}}
{{- default (printf "%s-admin" (include "playhouse.fullname" .)) .Values.proxy.admin.existingSecret -}}
{{- end -}}

{{- /* The enabled pools with their defaults, as YAML: a map from name to pool. */ -}}
{{- define "playhouse.pools" -}}
{{- $pools := dict -}}
{{- range $name, $own := .Values.workers -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.workerDefaults) (deepCopy (default dict $own)) -}}
{{- if $pool.enabled -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{- /* What demand is counted by: browser/version/seat. */ -}}
{{- define "playhouse.poolKey" -}}
{{- printf "%s/%s/%s" .browser (include "playhouse.minor" .version) .seat -}}
{{- end -}}

{{- /* 1.65 of 1.65.1. */ -}}
{{- define "playhouse.minor" -}}
{{- regexFind "^[0-9]+\\.[0-9]+" . -}}
{{- end -}}

{{- /* Seconds of a duration of our configuration, such as 5m, 1h30m or 1day, rounded up. */ -}}
{{- define "playhouse.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "sec" 1.0 "second" 1.0 "seconds" 1.0 "m" 60.0 "min" 60.0 "minute" 60.0 "minutes" 60.0 "h" 3600.0 "hr" 3600.0 "hour" 3600.0 "hours" 3600.0 "d" 86400.0 "day" 86400.0 "days" 86400.0 "w" 604800.0 "week" 604800.0 "weeks" 604800.0 "y" 31557600.0 "year" 31557600.0 "years" 31557600.0 -}}
{{- $text := . | toString | nospace -}}
{{- if not (regexMatch "^([0-9]+[a-z]+)+$" $text) -}}
{{- fail (printf "%q is no duration such as 30s, 5m or 1h" .) -}}
{{- end -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "%q: the chart does not know the unit %q" $text $unit) -}}
{{- end -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9]+" . | float64) (get $units $unit)) -}}
{{- end -}}
{{- ceil $sum | int64 -}}
{{- end -}}

{{- /* What a key of the configuration is set to: list (config, section, key, default). */ -}}
{{- define "playhouse.setting" -}}
{{- $section := default dict (get (index . 0) (index . 1)) -}}
{{- $value := get $section (index . 2) -}}
{{- if hasKey $section (index . 2) -}}{{- $value -}}{{- else -}}{{- index . 3 -}}{{- end -}}
{{- end -}}

{{- /* Seconds that sessions of a proxy, and of a worker, may go on once it is told to end. */ -}}
{{- define "playhouse.proxyDrain" -}}
{{- include "playhouse.seconds" (include "playhouse.setting" (list .Values.config "session" "drain_timeout" "5m")) -}}
{{- end -}}
{{- define "playhouse.workerDrain" -}}
{{- include "playhouse.seconds" (include "playhouse.setting" (list .Values.config "worker" "drain_timeout" "5m")) -}}
{{- end -}}

{{- /* terminationGracePeriodSeconds: list (what, given, needed). */ -}}
{{- define "playhouse.grace" -}}
{{- $needed := int64 (index . 2) -}}
{{- $given := index . 1 -}}
{{- if kindIs "invalid" $given -}}
{{- $needed -}}
{{- else if lt (int64 $given) $needed -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d: its sessions would be cut, draining takes up to %d s (drain timeout, preStop and a margin)" (index . 0) (int64 $given) $needed) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end -}}

{{- /* What must not be set by extraEnv, because the chart has to know it. */ -}}
{{- define "playhouse.checkEnv" -}}
{{- $where := index . 0 -}}
{{- range index . 1 -}}
{{- if has .name (list "DRAIN_TIMEOUT" "PLAYHOUSE_WORKER_DRAIN_TIMEOUT" "PLAYHOUSE_SESSION_DRAIN_TIMEOUT" "MAX_CONCURRENT_SESSIONS" "PLAYHOUSE_LIMITS_MAX_CONCURRENT_SESSIONS" "PLAYHOUSE_TLS_CERT" "PLAYHOUSE_SERVER_BASE_PATH" "LISTEN_ADDR" "ADMIN_ADDR" "PORT") -}}
{{- fail (printf "%s.extraEnv: %s has to be set in `config`, where the chart sees it" $where .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The configuration file: the user's, with what the chart knows. */ -}}
{{- define "playhouse.config" -}}
{{- $pools := include "playhouse.pools" . | fromYaml -}}
{{- $config := deepCopy .Values.config -}}
{{- range list "listen" "admin" "store" -}}
{{- if and (hasKey $config .) (or (ne . "store") (hasKey (default dict $config.store) "url")) -}}
{{- fail (printf "config.%s: the chart sets it" .) -}}
{{- end -}}
{{- end -}}
{{- $expected := list -}}
{{- $fromZero := false -}}
{{- range $name, $pool := $pools -}}
{{- $expected = append $expected (dict "browser" $pool.browser "version" (include "playhouse.minor" $pool.version) "seat" $pool.seat) -}}
{{- if and $pool.autoscaling.enabled (eq (int $pool.autoscaling.minReplicas) 0) -}}{{- $fromZero = true -}}{{- end -}}
{{- end -}}
{{- if and $expected (not (hasKey $config "pools")) -}}
{{- $_ := set $config "pools" ($expected | uniq) -}}
{{- end -}}
{{- $queue := default dict (get $config "queue") -}}
{{- if and $fromZero (not (hasKey $queue "timeout")) -}}
{{- $_ := set $config "queue" (merge (dict "timeout" "3m") $queue) -}}
{{- end -}}
{{- $limits := default dict (get $config "limits") -}}
{{- if not (hasKey $limits "max_concurrent_sessions") -}}
{{- $limits = merge (dict "max_concurrent_sessions" .Values.workerDefaults.seats) $limits -}}
{{- end -}}
{{- $_ := set $config "limits" $limits -}}
{{- $server := merge (default dict (get $config "server")) (dict "threads" .Values.proxy.threads) -}}
{{- $_ := set $config "server" $server -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* The store, for proxies (`.who` = proxy) and workers. */ -}}
{{- define "playhouse.redisEnv" -}}
{{- $redis := .root.Values.redis -}}
{{- $own := and (eq .who "worker") $redis.workers.url -}}
{{- $url := ternary $redis.workers.url $redis.url (not (not $own)) -}}
{{- $secret := ternary $redis.workers.existingSecret $redis.existingSecret (not (not $own)) -}}
{{- if and (not $url) $redis.trial.enabled -}}
{{- $url = printf "redis://%s-redis:6379" (include "playhouse.fullname" .root) -}}
{{- end -}}
- name: REDIS_URL
  value: {{ required "redis.url is needed, or redis.trial.enabled" $url | quote }}
{{- if $secret.name }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: { name: {{ $secret.name }}, key: {{ $secret.key }} }
{{- end }}
{{- end -}}

{{- /* http, or https where the configuration has a certificate: both ports speak TLS then. */ -}}
{{- define "playhouse.scheme" -}}
{{- if eq (include "playhouse.setting" (list .Values.config "tls" "cert" "none")) "none" -}}http{{- else -}}https{{- end -}}
{{- end -}}

{{- /* Below which path the data port is reached from outside. */ -}}
{{- define "playhouse.path" -}}
{{- $path := include "playhouse.setting" (list .Values.config "server" "base_path" "none") -}}
{{- if eq $path "none" -}}/{{- else -}}{{- $path -}}{{- end -}}
{{- end -}}

{{- /* What people set for pods: dict (pod, selector). */ -}}
{{- define "playhouse.scheduling" -}}
{{- $selector := .selector | fromYaml -}}
{{- with .pod -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- list (merge (dict) . (dict "labelSelector" (dict "matchLabels" $selector))) | toYaml | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .extraPodSpec }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end -}}
