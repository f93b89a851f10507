"""The functions of the script for bash, and zsh, that are the same for every command line."""

from __future__ import annotations

__all__ = ["BASH", "BASH_END"]

# bash makes three words of NAME=IMAGE, zsh one.
BASH = """\
_hfsched() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= place=0 i word before= head=
    if [[ $cur == "=" ]]; then cur=
    elif [[ $prev == "=" ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $cur == *=* ]]; then
        head=${cur%%=*}=
        if [[ $cur == -* ]]; then prev=${cur%%=*}; fi
        cur=${cur#*=}
    fi
    _hfsched_complete
    COMPREPLY=("${COMPREPLY[@]/#/$head}")
}
_hfsched_complete() {
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word != -* && $word != "=" && ( $before != "=" || ${COMP_WORDS[i-2]} == -* ) ]]; then
            if [[ -z $command ]]; then command=$word
            elif ! _hfsched_takes "$command" "$before"; then place=$((place + 1)); fi
        fi
        before=$word
    done
    COMPREPLY=()
    case $command in"""
BASH_END = """\
    esac
}
_hfsched_words() { local IFS=$' \\t\\n'; COMPREPLY+=($(compgen -W "$1" -- "$2")); }
_hfsched_names() {
    local i word before= names=
    for ((i = 2; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word != -* && $word != "=" && $before != "=" && $word != *.toml ]] &&
            { [[ $before == --guest ]] || ! _hfsched_takes run "$before"; }; then
            word=${word%%=*} word=${word%%:*} word=${word##*/}
            names+=" ${word%.*}"
        fi
        before=$word
    done
    _hfsched_words "$names" "$1"
}
_hfsched_files() { local IFS=$'\\n'; compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen "$1" -- "$2")); }
complete -F _hfsched hfsched"""
