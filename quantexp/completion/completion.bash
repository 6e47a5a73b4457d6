# completion of `python -m quantexp` and `quantexp` for bash
_quantexp_words() { # the program, then the words behind quantexp, the last one up to the cursor
    local last="${*: -1}" prefix="" word
    COMPREPLY=()
    # bash takes = and : for ends of words, where it is told so: what stands before stays as it is
    [[ $COMP_WORDBREAKS == *=* && $last == *=* ]] && prefix="${last%=*}="
    while IFS=$'\t' read -r word _; do
        COMPREPLY+=("${word#"$prefix"}")
    done < <("${QUANTEXP_ASK[@]}" completion --words "$@" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace 2> /dev/null
    elif [[ $last == *=* ]]; then
        compopt -o nospace 2> /dev/null # a comma may follow
        [[ ${#COMPREPLY[@]} -eq 1 && "$prefix${COMPREPLY[0]}" == "$last" ]] && COMPREPLY[0]+=" "
    fi
}
_quantexp_line() { # sets `line`: words as typed up to the cursor, the last maybe empty
    local text="${COMP_LINE:0:COMP_POINT}"
    read -ra line <<< "$text"
    [[ $text == *[[:space:]] ]] && line+=("")
}
_quantexp() {
    local line QUANTEXP_ASK
    _quantexp_line
    QUANTEXP_ASK=("${line[0]/#\~/$HOME}")
    _quantexp_words "${line[@]:1}"
}
_quantexp_python() {
    local line QUANTEXP_ASK place
    _quantexp_line
    for ((place = 1; place + 2 < ${#line[@]}; place++)); do
        if [[ ${line[place]} == -m && ${line[place + 1]} == quantexp ]]; then
            QUANTEXP_ASK=("${line[0]/#\~/$HOME}" -m quantexp)
            _quantexp_words "${line[@]:place+2}"
            return
        fi
    done
    # not ours: whoever completed python before, or files
    if [[ -n $_quantexp_before ]]; then "$_quantexp_before" "$@"; fi
}
_quantexp_now="$(complete -p python 2> /dev/null | sed -n 's/.* -F \([^ ]*\) .*/\1/p')"
[[ $_quantexp_now == _quantexp_python ]] || _quantexp_before="$_quantexp_now"
unset _quantexp_now
complete -o default -o bashdefault -F _quantexp_python python python3
complete -o default -o bashdefault -F _quantexp quantexp
