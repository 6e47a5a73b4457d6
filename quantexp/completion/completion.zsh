# completion of `python -m quantexp` and `quantexp` for zsh (after compinit)
_quantexp_words() { # the words behind quantexp; `ask` is the program
    local -a open closed described found
    local line word
    found=("${(@f)$("${ask[@]}" completion --words "$@" 2> /dev/null)}")
    for line in $found; do
        [[ -z $line ]] && continue
        word=${line%%$'\t'*}
        if [[ $word == *= || $word == *=* ]]; then
            open+=("$word")
        elif [[ $line == *$'\t'* ]]; then
            described+=("${word//:/\\:}:${line#*$'\t'}")
        else
            closed+=("$word")
        fi
    done
    (( $#open + $#closed + $#described )) || { compset -P '*='; _files; return }
    # behind = a comma or a value may follow: no space
    (( $#open )) && compadd -Q -S '' -- $open
    (( $#closed )) && compadd -Q -- $closed
    (( $#described )) && _describe -V quantexp described
    return 0
}
_quantexp() {
    local -a ask
    ask=(${~words[1]})
    _quantexp_words "${(@)words[2,CURRENT]}"
}
_quantexp_python() {
    local -a ask
    local -i place=${words[(i)quantexp]}
    if (( place < CURRENT && place > 2 )) && [[ ${words[place - 1]} == -m ]]; then
        ask=(${~words[1]} -m quantexp)
        _quantexp_words "${(@)words[place + 1,CURRENT]}"
    elif (( $+functions[_python] )) || [[ -n ${^fpath}/_python(#qN) ]]; then
        autoload -Uz _python
        _python "$@"
    else
        _files
    fi
}
if (( $+functions[compdef] )); then
    compdef _quantexp_python python python3
    compdef _quantexp quantexp
fi
