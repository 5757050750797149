/* chinese_neutral.c - everyday words of two syllables with a light second one.
 *
 * The dictionary marks many of them; these are the ones of the standard language's word lists that a
 * dictionary of written words gives with full tones. Sorted at first glance by meaning, not by
 * order: 300 comparisons per word cost nothing beside the network. */
#include "speech/chinese_neutral.h"

#include "base/utf8.h"

#include <string.h>

static const char words[] =
    "爱人巴掌扒拉白净帮手包袱包涵报酬本事鼻子比方扁担别扭拨弄簸箕补丁不由裁缝财主苍蝇差事柴火"
    "掺和颤悠称呼出息锄头畜生窗户刺猬凑合耷拉答应打扮打点打发打量打算打听大方大夫大爷大意带累"
    "耽搁耽误道士灯笼提防地道地方弟兄点心动静动弹东西东家豆腐嘟囔对付对头队伍多么耳朵废物费用风筝"
    "福气甘蔗干事高粱膏药告示告诉疙瘩胳膊工夫功夫姑娘故事寡妇怪物关系官司棺材罐头规矩闺女蛤蟆"
    "哈欠含糊行当行李合同和尚核桃红火后头厚道狐狸胡琴胡同糊涂护士皇上活泼火候伙计机灵记号记性"
    "脊梁家伙架势嫁妆将就讲究交情叫唤结实街坊姐夫戒指精神舅舅咳嗽客气口袋窟窿快活困难阔气喇叭"
    "喇嘛懒得浪头老婆老实老爷累赘篱笆里头力气厉害利落利索痢疾连累凉快粮食溜达芦苇萝卜骆驼麻烦"
    "麻利马虎码头买卖馒头忙活冒失眉毛媒人眯缝迷糊苗条苗头名堂名字明白蘑菇模糊木匠木头奶奶难为"
    "脑袋能耐念叨念头娘家奴才女婿暖和疟疾牌楼盘算朋友脾气屁股便宜漂亮婆家铺盖欺负亲戚勤快清楚"
    "亲家拳头热闹人家认识扫帚商量上司上头烧饼少爷生意牲口师父师傅石匠石榴石头时候实在拾掇使唤"
    "世故似的事情收成收拾首饰舒服舒坦疏忽爽快思量算计岁数他们它们她们太太特务挑剔跳蚤铁匠头发妥当唾"
    "沫"
    "挖苦娃娃晚上尾巴委屈位置温和稳当我们稀罕媳妇喜欢下巴吓唬先生乡下相声消息小气笑话谢谢心思"
    "星星猩猩行头休息秀才秀气学生学问丫头鸭子衙门哑巴胭脂烟筒眼睛秧歌养活吆喝妖精钥匙衣服衣裳"
    "意思应酬冤枉月饼月亮云彩运气在乎早上怎么扎实眨巴栅栏张罗丈夫丈人帐篷招呼招牌折腾这么枕头"
    "芝麻知识直溜指甲指头主意转悠庄稼壮实状元字号自在祖宗嘴巴作坊琢磨什么那么多少葡萄玻璃琵琶"
    "枇杷菩萨石匠跟头木匠骨头舌头馄饨鸳鸯忌讳见识晃荡牙碜摆布吩咐嘱咐含糊嘀咕哆嗦荒唐邋遢"
    "太阳新鲜夜里妈妈爸爸哥哥弟弟姐姐妹妹爷爷叔叔伯伯姑姑宝宝";

bool mica_chinese_is_light(uint32_t first, uint32_t second)
{
    char pair[8];
    const size_t n = mica_utf8_encode(first, pair);
    const size_t size = n + mica_utf8_encode(second, pair + n);
    if (size != 6)
        return false;
    for (const char *at = words; at[0] != '\0'; at += size)
        if (memcmp(at, pair, size) == 0)
            return true;
    return false;
}
