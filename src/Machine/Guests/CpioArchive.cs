using System.Text;

namespace Bunraku.Machine;

/// <summary>Writes a cpio archive in the "newc" format, which Linux unpacks as its initramfs.</summary>
/// <remarks>Linux kernel documentation, "initramfs buffer format". All entries belong to root and carry the time 0, so equal input gives equal bytes.</remarks>
internal sealed class CpioArchive
{
    private const uint Directory = 0x4000, CharacterDevice = 0x2000, Regular = 0x8000, SymbolicLink = 0xA000;
    private readonly MemoryStream _bytes = new();
    private uint _inode;

    /// <param name="path">Without a leading slash.</param>
    /// <param name="mode">Permission bits.</param>
    public void AddDirectory(string path, uint mode = 0x1ED) => Add(path, Directory | mode, [], 2);

    public void AddFile(string path, ReadOnlySpan<byte> content, uint mode = 0x1A4) => Add(path, Regular | mode, content);

    public void AddSymbolicLink(string path, string target) => Add(path, SymbolicLink | 0x1FF, Encoding.UTF8.GetBytes(target));

    public void AddCharacterDevice(string path, uint major, uint minor, uint mode = 0x180) => Add(path, CharacterDevice | mode, [], 1, major, minor);

    /// <summary>Ends the archive.</summary>
    public byte[] ToArray()
    {
        _inode = uint.MaxValue; // the trailer has inode 0
        Add("TRAILER!!!", 0, []);
        Pad(512);
        return _bytes.ToArray();
    }

    private void Add(string path, uint mode, ReadOnlySpan<byte> content, uint links = 1, uint major = 0, uint minor = 0)
    {
        byte[] name = [.. Encoding.UTF8.GetBytes(path), 0];
        uint inode = unchecked(++_inode);
        // magic, then 13 fields of 8 hexadecimal digits: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        ReadOnlySpan<uint> fields = [inode, mode, 0, 0, links, 0, (uint)content.Length, 0, 0, major, minor, (uint)name.Length, 0];
        var header = new StringBuilder("070701", 110);
        foreach (uint field in fields) header.Append(field.ToString("X8"));
        _bytes.Write(Encoding.ASCII.GetBytes(header.ToString()));
        _bytes.Write(name);
        Pad(4);
        _bytes.Write(content);
        Pad(4);
    }

    private void Pad(int alignment)
    {
        while (_bytes.Length % alignment != 0) _bytes.WriteByte(0);
    }
}
